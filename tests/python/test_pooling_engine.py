"""Pooling requests through `rustllm.Engine`: token ids in, vectors and scores out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rustllm import Engine, ModelLoadError, SamplingParams, ValidationError
from rustllm._core import PoolingParams

GOLDENS = Path(__file__).parent.parent / "goldens"
Array = npt.NDArray[np.float32]


def open_engine(case: str, **options: Any) -> Engine:
    return Engine(GOLDENS / case, **{"dtype": "float32", "num_gpu_blocks_override": 64, **options})


def prompts_of(case: str) -> list[dict[str, Any]]:
    reference = json.loads((GOLDENS / case / "pooling_reference.json").read_text())
    prompts: list[dict[str, Any]] = reference["prompts"]
    return prompts


def pool(engine: Engine, prompts: list[dict[str, Any]], params: PoolingParams) -> list[Array]:
    engine.add_pooling_requests(
        [
            (str(i), prompt["prompt_token_ids"], prompt["token_type_ids"], params, 0, None)
            for i, prompt in enumerate(prompts)
        ]
    )
    pooled: dict[str, Array] = {}
    while engine.has_unfinished():
        for output in engine.step():
            assert (output.finish_reason, output.error, output.token_ids) == ("stop", None, [])
            assert output.pooled is not None and output.pooled.dtype == np.float32
            pooled[output.request_id] = output.pooled
    return [pooled[str(i)] for i in range(len(prompts))]


def assert_near(found: Array, expected: Any) -> None:
    wanted = np.array(expected, np.float32)
    assert found.shape == wanted.shape
    length = np.linalg.norm(wanted, axis=-1, keepdims=True)
    assert float((np.abs(found - wanted) / length).max()) < 1e-5


def test_embeds_as_transformers_does() -> None:
    engine, prompts = open_engine("bert"), prompts_of("bert")
    info = engine.model_info
    assert (info.architecture, info.supported_tasks) == ("BertModel", ["embed", "token_embed"])
    assert (info.embedding_size, info.num_labels, info.num_blocks) == (32, None, 0)
    for pooled, prompt in zip(pool(engine, prompts, PoolingParams("embed")), prompts, strict=True):
        assert_near(pooled, prompt["embedding"])
    raw = PoolingParams("token_embed", normalize=False)
    for pooled, prompt in zip(pool(engine, prompts, raw), prompts, strict=True):
        assert_near(pooled, prompt["hidden"])


def test_follows_the_modules_of_sentence_transformers() -> None:
    engine, prompts = open_engine("bert_sentence"), prompts_of("bert_sentence")
    assert (engine.model_info.embedding_size, engine.model_info.max_model_len) == (24, 48)
    whole = pool(engine, prompts, PoolingParams("embed"))
    cut = pool(engine, prompts, PoolingParams("embed", dimensions=8))
    for vector, short, prompt in zip(whole, cut, prompts, strict=True):
        assert_near(vector, prompt["embedding"])
        assert_near(short, vector[:8] / np.linalg.norm(vector[:8]))
    with pytest.raises(ValidationError, match=r"dimensions must be one of \[8, 20\], got 9"):
        pool(engine, prompts, PoolingParams("embed", dimensions=9))


def test_classifies() -> None:
    engine, prompts = open_engine("bert_classifier"), prompts_of("bert_classifier")
    assert (engine.model_info.supported_tasks, engine.model_info.num_labels) == (["classify"], 3)
    scores = pool(engine, prompts, PoolingParams("classify", use_activation=False))
    shares = pool(engine, prompts, PoolingParams("classify"))
    for found, share, prompt in zip(scores, shares, prompts, strict=True):
        assert_near(found, prompt["scores"])
        assert_near(share, np.exp(found) / np.exp(found).sum())


def test_fills_masks() -> None:
    engine, prompts = open_engine("bert_mlm"), prompts_of("bert_mlm")
    assert engine.model_info.supported_tasks == ["embed", "token_embed", "fill_mask"]
    params = PoolingParams("fill_mask", mask_token_id=4)
    for pooled, prompt in zip(pool(engine, prompts, params), prompts, strict=True):
        assert_near(pooled, prompt["scores"])
    (nothing,) = pool(engine, [{"prompt_token_ids": [7], "token_type_ids": None}], params)
    assert nothing.shape == (0, engine.model_info.vocab_size)


def test_a_head_is_left_out_or_must_be_there() -> None:
    prompt = {"prompt_token_ids": [7, 8, 9], "token_type_ids": None}
    engine = open_engine("bert_classifier", convert="embed")
    assert engine.model_info.supported_tasks == ["embed", "token_embed"]
    (vector,) = pool(engine, [prompt], PoolingParams("embed"))
    assert np.isclose(np.linalg.norm(vector), 1)
    mean = open_engine("bert_classifier", convert="embed", pooler_config='{"pooling_type": "MEAN"}')
    (rows,) = pool(mean, [prompt], PoolingParams("token_embed", normalize=False))
    (other,) = pool(mean, [prompt], PoolingParams("embed", normalize=False))
    assert_near(other, rows.mean(0))
    with pytest.raises(ModelLoadError, match=r"the tensor classifier\.weight is missing"):
        open_engine("bert", convert="classify")
    with pytest.raises(ModelLoadError, match='use runner="pooling"'):
        open_engine("bert", runner="generate")


def test_a_generator_can_be_run_as_an_embedder() -> None:
    engine = open_engine("llama", runner="pooling", max_num_batched_tokens=16, max_num_seqs=8)
    ids = [(7 * i) % 300 + 3 for i in range(50)]
    prompt = {"prompt_token_ids": ids, "token_type_ids": None}
    (vector,) = pool(engine, [prompt], PoolingParams("embed", normalize=False))
    # In chunks of 16 tokens, from the prefix cache, and as the last of all rows.
    (again,) = pool(engine, [prompt], PoolingParams("embed", normalize=False))
    (rows,) = pool(engine, [prompt], PoolingParams("token_embed", normalize=False))
    assert rows.shape == (50, 64)
    assert np.array_equal(vector, again) and np.array_equal(vector, rows[-1])
    assert engine.stats().prefix_cache_hits > 0


@pytest.mark.parametrize(
    ("case", "ids", "types", "params", "message"),
    [
        ("bert", [5], None, PoolingParams("classify"), "it supports embed, token_embed"),
        ("bert", [], None, PoolingParams("embed"), "cannot be empty"),
        ("bert", [101], None, PoolingParams("embed"), "Token id 101 is out of vocabulary"),
        ("bert", [5] * 65, None, PoolingParams("embed"), "maximum context length is 64"),
        ("bert", [5, 6], [0], PoolingParams("embed"), r"an entry a token \(2\), got 1"),
        ("bert", [5, 6], [0, 2], PoolingParams("embed"), "must be below 2 for this model, got 2"),
        ("bert", [5], None, PoolingParams("embed", dimensions=8), "were not trained to be cut"),
        ("bert_mlm", [5], None, PoolingParams("fill_mask"), "mask_token_id must be given"),
        ("bert_ner", [5], None, PoolingParams("token_classify", normalize=True), "for embeddings"),
        ("llama", [5], None, PoolingParams("embed"), 'load it with runner="pooling"'),
    ],
)
def test_refuses_what_a_model_cannot_do(
    case: str, ids: list[int], types: list[int] | None, params: PoolingParams, message: str
) -> None:
    engine = open_engine(case)
    with pytest.raises(ValidationError, match=message):
        engine.add_pooling_requests([("a", ids, types, params, 0, None)])
    assert not engine.has_unfinished()


def test_a_prompt_must_fit_into_a_step() -> None:
    engine = open_engine("bert", max_num_batched_tokens=32, max_num_seqs=4)
    prompts = [{"prompt_token_ids": [5 + i] * 20, "token_type_ids": None} for i in range(6)]
    assert len(pool(engine, prompts, PoolingParams("embed"))) == 6
    with pytest.raises(ValidationError, match=r"raise\s+max_num_batched_tokens"):
        engine.add_pooling_requests([("a", [5] * 33, None, PoolingParams("embed"), 0, None)])


def test_text_is_not_to_be_had_from_an_encoder() -> None:
    engine = open_engine("bert")
    with pytest.raises(ValidationError, match="does not generate text"):
        engine.add_request("a", [5], SamplingParams())


def test_params_show_what_they_are() -> None:
    params = PoolingParams("embed", dimensions=8, normalize=False)
    assert repr(params) == (
        'PoolingParams("embed", use_activation=None, dimensions=8, normalize=False, '
        "mask_token_id=None)"
    )
    assert params == PoolingParams("embed", dimensions=8, normalize=False)
    with pytest.raises(ValidationError, match="task must be one of embed, classify"):
        PoolingParams("score")
