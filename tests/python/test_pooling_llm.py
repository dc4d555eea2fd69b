"""`LLM.embed`, `encode`, `classify` and `score`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pooled_models import CLS, PROMPTS, SEP, letters

from rustllm import LLM, PoolingParams, SamplingParams, ValidationError
from rustllm.engine_args import EngineArgs
from rustllm.inputs import TextPrompt, TokensPrompt

TEXTS = ["abc def", "hello", "a b c d e f g"]


def open_llm(model: Path, **options: Any) -> LLM:
    return LLM(str(model), **{"dtype": "float32", **options})


@pytest.fixture(scope="module")
def embedder(sentence_model: Path) -> LLM:
    return open_llm(sentence_model)


@pytest.fixture(scope="module")
def classes(classifier: Path) -> LLM:
    return open_llm(classifier)


@pytest.fixture(scope="module")
def scorer(cross_encoder: Path) -> LLM:
    return open_llm(cross_encoder)


def vectors(outputs: Any) -> np.ndarray[Any, Any]:
    return np.array([output.outputs.embedding for output in outputs], np.float32)


def test_prompts_of_all_shapes_are_the_same(embedder: LLM) -> None:
    text = "abc def"
    ids = [CLS, *letters(text), SEP]
    shapes: list[Any] = [text, ids, {"prompt": text}, {"prompt_token_ids": ids}]
    typed: Any = {"prompt_token_ids": ids, "token_type_ids": [0] * len(ids)}
    found = embedder.embed([*shapes, typed])
    assert [output.prompt_token_ids for output in found] == [ids] * 5
    assert [output.finished for output in found] == [True] * 5
    assert (vectors(found) == vectors(found)[0]).all()
    [alone] = embedder.embed(ids)
    assert alone.outputs == found[0].outputs
    assert alone.outputs.hidden_size == 24
    typed["token_type_ids"] = [1] * len(ids)
    assert not np.allclose(vectors(embedder.embed([typed])), vectors(found[:1]), atol=1e-3)


def test_results_are_in_order_and_do_not_depend_on_the_batch(embedder: LLM) -> None:
    texts = [f"{'ab ' * (i % 7)}{chr(97 + i % 26)}" for i in range(40)]
    together = vectors(embedder.embed(texts))
    alone = vectors([embedder.embed(text)[0] for text in texts])
    assert np.array_equal(together, alone)


def test_the_progress_bar_counts_prompts(embedder: LLM) -> None:
    bars: list[Any] = []

    class Bar:
        postfix = ""

        def __init__(self, **options: Any) -> None:
            self.total, self.done = options["total"], 0
            bars.append(self)

        def update(self, count: int) -> None:
            self.done += count

        def close(self) -> None: ...

    embedder.embed(TEXTS, use_tqdm=Bar)
    assert [(bar.total, bar.done) for bar in bars] == [(3, 3)]


def test_params(embedder: LLM) -> None:
    [whole], [raw] = (
        vectors(embedder.embed("abc", pooling_params=PoolingParams(use_activation=flag)))
        for flag in (True, False)
    )
    assert math.isclose(float(np.linalg.norm(whole)), 1, rel_tol=1e-6)
    assert np.allclose(raw / np.linalg.norm(raw), whole, atol=1e-6)
    [old] = vectors(embedder.embed("abc", pooling_params=PoolingParams(normalize=False)))
    assert np.array_equal(old, raw)
    [short] = vectors(embedder.embed("abc", pooling_params=PoolingParams(dimensions=8)))
    assert np.allclose(short, whole[:8] / np.linalg.norm(whole[:8]), atol=1e-6)
    each = embedder.embed(["a", "b"], pooling_params=[PoolingParams(dimensions=8), PoolingParams()])
    assert [output.outputs.hidden_size for output in each] == [8, 24]
    [rows] = embedder.encode("abc", pooling_task="token_embed")
    assert rows.outputs.data.shape == (5, 30)


def test_prompts_of_the_model(embedder: LLM) -> None:
    [named] = vectors(embedder.embed("abc", prompt_name="query"))
    [given] = vectors(embedder.embed("abc", prompt="q: "))
    [written] = vectors(embedder.embed(PROMPTS["query"] + "abc"))
    [bare] = vectors(embedder.embed("abc"))
    assert np.array_equal(named, given) and np.array_equal(named, written)
    assert not np.allclose(named, bare, atol=1e-3)
    with pytest.raises(ValidationError, match=r"prompts \('query', 'document'\), got 'passage'"):
        embedder.embed("abc", prompt_name="passage")
    with pytest.raises(ValidationError, match="prompt_name or prompt, not both"):
        embedder.embed("abc", prompt_name="query", prompt="x")


def test_too_long_prompts_are_refused_or_cut(embedder: LLM) -> None:
    long = "a " * 60
    with pytest.raises(ValidationError, match="maximum context length is 48"):
        embedder.embed(["a", long])
    [cut] = embedder.embed(long, tokenization_kwargs={"truncate_prompt_tokens": -1})
    assert cut.prompt_token_ids == [CLS, *letters("a " * 46), SEP]
    kwargs = {"truncate_prompt_tokens": 4, "truncation_side": "left"}
    [left] = embedder.embed("a b c d", tokenization_kwargs=kwargs)
    assert left.prompt_token_ids == [CLS, *letters("c d"), SEP]
    [ids] = embedder.embed([[5, 6, 7, 8]], tokenization_kwargs={"truncate_prompt_tokens": 2})
    assert ids.prompt_token_ids == [5, 6]
    with pytest.raises(ValidationError, match="greater than max_model_len"):
        embedder.embed("a", tokenization_kwargs={"truncate_prompt_tokens": 49})


def test_classifies(classes: LLM) -> None:
    outputs = classes.classify(TEXTS)
    scores = classes.classify(TEXTS, pooling_params=PoolingParams(use_activation=False))
    for output, raw in zip(outputs, scores, strict=True):
        shares = np.exp(raw.outputs.probs)
        assert np.allclose(output.outputs.probs, shares / shares.sum(), atol=1e-6)
        assert output.outputs.num_classes == 3
    with pytest.raises(ValidationError, match="only enabled for num_labels == 1, got 3"):
        classes.score("a", "b")
    with pytest.raises(ValidationError, match=r"Embedding API is not supported .*--convert embed"):
        classes.embed("a")
    with pytest.raises(ValidationError, match="normalize is for embeddings"):
        classes.classify("a", pooling_params=PoolingParams(normalize=True))


def test_a_cross_encoder_reads_both_texts(scorer: LLM) -> None:
    outputs = scorer.score("abc", TEXTS)
    for output, text in zip(outputs, TEXTS, strict=True):
        first, second = [CLS, *letters("abc"), SEP], [*letters(text), SEP]
        types = [0] * len(first) + [1] * len(second)
        prompt: Any = {"prompt_token_ids": first + second, "token_type_ids": types}
        [expected] = scorer.classify(prompt)
        assert output.prompt_token_ids == first + second
        assert [output.outputs.score] == expected.outputs.probs
    assert len({output.outputs.score for output in outputs}) == 3
    each = scorer.score(["abc"] * 3, TEXTS)
    assert [item.outputs for item in each] == [item.outputs for item in outputs]
    kwargs = {"truncate_prompt_tokens": 8}
    [cut] = scorer.score("a", "b c d e f g h i", tokenization_kwargs=kwargs)
    assert cut.prompt_token_ids == [CLS, *letters("a"), SEP, *letters("b c d e"), SEP]


def test_scores_of_embeddings_are_cosines(embedder: LLM) -> None:
    query, *documents = vectors(embedder.embed(["abc", *TEXTS]))
    found = [output.outputs.score for output in embedder.score("abc", TEXTS)]
    assert np.allclose(found, [query @ document for document in documents], atol=1e-6)
    [same] = embedder.score("abc", "abc")
    assert math.isclose(same.outputs.score, 1, rel_tol=1e-6)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (["a", "b"], ["a", "b", "c"], "must be either 1:1, 1:N or N:N"),
        ("a", [], "At least one text_pair element must be given"),
        ([], "a", "At least one text element must be given"),
        ("a", [5], "data_2 must be a string or a list of strings"),
    ],
)
def test_texts_must_make_pairs(scorer: LLM, first: Any, second: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        scorer.score(first, second)


def test_wrong_methods_say_what_to_do(embedder: LLM, chat_llama: Path) -> None:
    with pytest.raises(ValidationError, match=r"LLM.generate\(\) is only supported for generative"):
        embedder.generate("abc", SamplingParams())
    with pytest.raises(ValidationError, match="pooling_task required"):
        embedder.encode("abc")
    with pytest.raises(ValidationError, match="it is called 'classify' now"):
        embedder.encode("abc", pooling_task="score")
    with pytest.raises(ValidationError, match="cannot overwrite"):
        embedder.embed("abc", pooling_params=PoolingParams(task="classify"))
    generator = open_llm(chat_llama)
    for call in (generator.embed, generator.classify, lambda text: generator.score(text, text)):
        with pytest.raises(ValidationError, match="Try passing `--runner pooling`"):
            call("abc")


def test_a_generator_can_embed(chat_llama: Path) -> None:
    llm = open_llm(chat_llama, runner="pooling", pooler_config={"pooling_type": "MEAN"})
    [vector] = vectors(llm.embed("def f():"))
    rows = llm.encode("def f():", PoolingParams(use_activation=False), pooling_task="token_embed")
    mean = rows[0].outputs.data.mean(0)
    assert np.allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)


def test_cached_prefixes_are_shared_within_a_salt_only(chat_llama: Path) -> None:
    llm = open_llm(chat_llama, runner="pooling")

    ids = [5, 6, 7, 8] * 12

    def cached(prompt: TextPrompt | TokensPrompt) -> tuple[int, list[float]]:
        [output] = llm.embed(prompt)
        return output.num_cached_tokens, output.outputs.embedding

    count, vector = cached({"prompt_token_ids": ids})
    assert count == 0
    assert cached({"prompt_token_ids": ids}) == (32, vector)
    assert cached({"prompt_token_ids": ids, "cache_salt": "mine"}) == (0, vector)
    assert cached({"prompt_token_ids": ids, "cache_salt": "mine"}) == (32, vector)
    text = "import os\nimport sys\n\n" * 20
    counts = [cached({"prompt": text, "cache_salt": salt})[0] for salt in ("a", "b", "a")]
    assert counts[:2] == [0, 0] and counts[2] >= 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"step_tag_id": 5}, "step_tag_id is not supported"),
        ({"extra_kwargs": {"a": 1}}, "extra_kwargs is not supported"),
        ({"dimensions": 0}, "dimensions must be at least 1, got 0"),
        ({"task": "plugin"}, "task must be one of embed, classify, token_embed, token_classify"),
        ({"use_activation": 1}, "use_activation must be True, False or None"),
        ({"use_activation": True, "normalize": True}, "give one of them"),
    ],
)
def test_params_that_cannot_be(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PoolingParams(**fields)


def test_arguments_of_the_engine() -> None:
    args = EngineArgs.from_kwargs(runner="pooling", convert="embed", pooler_config=None)
    assert (args.runner, args.convert) == ("pooling", "embed")
    with pytest.raises(ValidationError, match="pooler_config must be a dict, got str"):
        EngineArgs.from_kwargs(pooler_config="MEAN")
    with pytest.raises(ValidationError, match=r"task='embed' is not supported: use runner="):
        EngineArgs.from_kwargs(task="embed")
