"""Pipelines: options, inputs of every shape, and what is refused."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from rustllm import ValidationError, pipeline
from rustllm.encoding import TextPair
from rustllm.pipelines import supported_tasks

TEXT = "Marie Laveau waits in Lyon."
OTHER = "The ferry to Gdańsk leaves."


def load(goldens: Path, task: str, case: str, **options: Any) -> Any:
    return pipeline(
        task, goldens / case, **{"dtype": "float32", "tokenizer": goldens / "wordpiece", **options}
    )


def test_names_of_tasks(goldens: Path) -> None:
    assert {"ner", "sentiment-analysis", "text-ranking"} <= set(supported_tasks())
    with pytest.raises(ValidationError, match="unknown task 'tagging'; tasks are feature-extr"):
        pipeline("tagging")
    assert load(goldens, "ner", "pipeline_ner").task == "token-classification"


def test_a_list_gives_what_its_inputs_give(goldens: Path) -> None:
    ner = load(goldens, "ner", "pipeline_ner", aggregation_strategy="simple", batch_size=2)
    texts = [TEXT, OTHER, "", TEXT, OTHER]
    one_by_one = [ner(text) for text in texts]
    assert ner(texts) == one_by_one
    assert ner([]) == []
    assert one_by_one[2] == [] and one_by_one[0]


def test_threads_may_share_a_pipeline(goldens: Path) -> None:
    ner = load(goldens, "ner", "pipeline_ner", aggregation_strategy="simple", stride=5)
    texts = [f"{TEXT} {OTHER} " * count for count in range(1, 13)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ner, texts)) == ner(texts)
    # What is refused leaves nothing behind.
    with pytest.raises(ValidationError, match="lone surrogate"):
        ner([TEXT, "\ud800"])
    assert ner(TEXT) == ner([TEXT])[0]


def test_a_generator_is_read_a_batch_ahead(goldens: Path) -> None:
    classifier = load(goldens, "text-classification", "pipeline_nli", batch_size=3)
    read: list[int] = []

    def texts() -> Iterator[str]:
        for place in itertools.count():
            read.append(place)
            yield f"{TEXT} {place}"

    results = classifier(texts())
    assert read == []
    first = [next(results) for _ in range(3)]
    assert read == [0, 1, 2]
    assert first == classifier([f"{TEXT} {place}" for place in range(3)])


@pytest.mark.parametrize(
    ("task", "case", "message"),
    [
        (
            "text-classification",
            "pipeline_ner",
            "BertForTokenClassification cannot do text-classification; it can do token-class",
        ),
        ("ner", "pipeline_qa", "cannot do token-classification; it can do question-answering"),
        ("question-answering", "pipeline_ner", "it can do token-classification"),
        ("fill-mask", "pipeline_nli", "can do text-classification, zero-shot-classification, text"),
        ("fill-mask", "chat_llama", "can do text-generation, summarization, translation"),
        ("text-generation", "pipeline_ner", "it generates no text; it can do token_classify"),
        ("text-ranking", "pipeline_nli", "needs a model of one label, got 3"),
    ],
)
def test_a_model_for_another_task(goldens: Path, task: str, case: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        load(goldens, task, case)
    assert caught.value.parameter == "task"


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("ner", {"aggregation": "max"}, "unknown engine argument 'aggregation'"),
        ("ner", {"aggregation_strategy": "last"}, "must be one of none, simple, first, average"),
        ("ner", {"stride": 4}, "stride needs an aggregation_strategy other than none"),
        ("ner", {"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ("text-classification", {"top_k": 0}, "top_k must be at least 1, got 0"),
        ("text-classification", {"function_to_apply": "tanh"}, "one of none, sigmoid, softmax"),
        ("text-classification", {"truncation": "middle"}, "truncation must be True, False or one"),
        ("zero-shot-classification", {"hypothesis_template": "Yes."}, "must have a {} for the"),
        ("question-answering", {"max_answer_len": 0}, "max_answer_len must be at least 1, got 0"),
        ("fill-mask", {"top_k": 0}, "top_k must be at least 1, got 0"),
    ],
)
def test_refuses_options(goldens: Path, task: str, options: dict[str, Any], message: str) -> None:
    # Options are checked before a model is loaded: any will do.
    with pytest.raises(ValidationError, match=message):
        load(goldens, task, "pipeline_ner", **options)


@pytest.mark.parametrize(
    ("task", "case", "inputs", "options", "message"),
    [
        ("ner", "pipeline_ner", TEXT, {"top_k": 3}, "token-classification has no option 'top_k'"),
        ("ner", "pipeline_ner", 3, {}, "a text must be a string, got int"),
        ("text-classification", "pipeline_nli", [[TEXT], [OTHER]], {}, "must be given as {'text'"),
        ("text-classification", "pipeline_nli", {"text_pair": "a"}, {}, "must have text"),
        ("text-classification", "pipeline_nli", TEXT * 12, {}, "maximum context length is 64"),
        ("fill-mask", "pipeline_mlm", TEXT, {}, r"no mask token \(\[MASK\]\)"),
        ("fill-mask", "pipeline_mlm", "[MASK]", {"targets": [""]}, "at least one token of the"),
        ("zero-shot-classification", "pipeline_nli", TEXT, {}, "at least one label"),
        ("question-answering", "pipeline_qa", TEXT, {}, "a dict with a question and a context"),
        (
            "question-answering",
            "pipeline_qa",
            {"question": "Who?", "context": ""},
            {},
            "context must be a text that is not empty, got ''",
        ),
        (
            "question-answering",
            "pipeline_qa",
            {"question": TEXT * 7, "context": TEXT * 7},
            {},
            "max_length must be more than",
        ),
    ],
)
def test_refuses_inputs(
    goldens: Path, task: str, case: str, inputs: Any, options: dict[str, Any], message: str
) -> None:
    pipe = load(goldens, task, case)
    with pytest.raises(ValidationError, match=message):
        pipe(inputs, **options)
    with pytest.raises(ValidationError, match=message):
        pipe([inputs, inputs], **options)


def test_the_function_follows_the_problem(goldens: Path) -> None:
    def scores(problem: str | None, **options: Any) -> list[float]:
        overrides = {"problem_type": problem} if problem else {}
        pipe = load(goldens, "sentiment-analysis", "pipeline_nli", hf_overrides=overrides)
        return sorted(entry["score"] for entry in pipe(TEXT, top_k=None, **options))

    raw = scores(None, function_to_apply="none")
    assert scores("regression") == raw and max(map(abs, raw)) > 1
    assert scores("multi_label_classification") == scores(None, function_to_apply="sigmoid")
    assert sum(scores(None)) == pytest.approx(1)


def test_labels_without_names(goldens: Path) -> None:
    overrides = {"id2label": None, "label2id": None, "num_labels": 3}
    pipe = load(goldens, "text-classification", "pipeline_nli", hf_overrides=overrides)
    labels = {entry["label"] for entry in pipe(TEXT, top_k=None)}
    assert labels == {"LABEL_0", "LABEL_1", "LABEL_2"}
    # No label says entailment: the last one stands for it.
    zero_shot = load(goldens, "zero-shot-classification", "pipeline_nli", hf_overrides=overrides)
    assert zero_shot(TEXT, ["travel", "music"])["labels"]


def test_questions_in_every_shape(goldens: Path) -> None:
    qa = load(goldens, "question-answering", "pipeline_qa")
    expected = qa({"question": "Who?", "context": TEXT})
    assert expected["answer"] == TEXT[expected["start"] : expected["end"]] != ""
    assert qa(question="Who?", context=TEXT) == expected == qa("Who?", TEXT)
    assert qa(TextPair("Who?", TEXT)) == expected
    assert qa(question=["Who?", "Who?"], context=TEXT) == [expected, expected]
    assert qa(question=["Who?"], context=[TEXT]) == expected
    assert list(qa({"question": "Who?", "context": TEXT} for _ in range(2))) == [expected] * 2
    with pytest.raises(ValidationError, match="one context, or as many as questions"):
        qa(question=["Who?", "Who?"], context=[TEXT])


def test_features_as_arrays(goldens: Path) -> None:
    extractor = load(goldens, "feature-extraction", "pipeline_mlm")
    array = extractor(TEXT, return_tensors=True)
    assert array.shape[0] == 1 and array.shape[2] == 20
    assert array.tolist() == extractor(TEXT)


def test_any_model_has_features(goldens: Path) -> None:
    of_classifier = load(goldens, "feature-extraction", "pipeline_nli")(TEXT, return_tensors=True)
    assert of_classifier.shape[2] == 20
    generator: Any = pipeline("feature-extraction", goldens / "chat_llama")
    features = generator(TEXT, return_tensors=True)
    assert features.shape[1] == len(generator.model.tokenizer.encode(TEXT))


def test_ranks_documents(goldens: Path) -> None:
    reference = json.loads((goldens / "pipeline_ranker" / "pipeline_reference.json").read_text())
    [call] = reference["calls"]
    query, texts = call["inputs"][0]["text"], [item["text_pair"] for item in call["inputs"]]
    stored = [item["score"] for item in call["result"]]
    ranker = load(goldens, "text-ranking", "pipeline_ranker")
    ranked = ranker(query, texts)
    assert [entry["corpus_id"] for entry in ranked] == sorted(
        range(3), key=lambda place: -stored[place]
    )
    for entry in ranked:
        assert entry["score"] == pytest.approx(stored[entry["corpus_id"]], rel=1e-5)
    [best] = ranker({"query": query, "documents": texts}, top_k=1, return_documents=True)
    assert best == {**ranked[0], "text": texts[best["corpus_id"]]}
    assert ranker([{"query": query, "documents": texts}, {"query": query, "documents": []}]) == [
        ranked,
        [],
    ]
    with pytest.raises(ValidationError, match="documents must be a list of texts"):
        ranker(query, "a text")


def test_text_is_generated_as_asked(chat_llama: Path) -> None:
    generator = pipeline("text-generation", chat_llama, max_new_tokens=5)
    greedy = generator("The river", do_sample=False)
    assert len(greedy) == 1 and greedy[0]["generated_text"].startswith("The river")
    several = generator("The river", num_return_sequences=3, seed=7)
    assert len(several) == 3 and several == generator("The river", num_return_sequences=3, seed=7)
    [stopped] = generator(
        "The river", do_sample=False, stop_sequence=greedy[0]["generated_text"][9:11]
    )
    assert stopped["generated_text"] == greedy[0]["generated_text"][:11]
    with pytest.raises(ValidationError, match="a text or a conversation, got int"):
        generator([3])


def test_chat_models_summarize_and_translate(chat_llama: Path, goldens: Path) -> None:
    summarizer = pipeline("summarization", chat_llama, max_new_tokens=6)
    texts = [TEXT, OTHER]
    assert [list(item) for item in summarizer(texts)] == [["summary_text"]] * 2
    assert summarizer(TEXT) == [summarizer(texts)[0]]
    to_french = pipeline("translation_en_to_fr", chat_llama, max_new_tokens=6)
    [translated] = to_french(TEXT)
    assert list(translated) == ["translation_text"]
    assert to_french(TEXT, src_lang="English", tgt_lang="French") == [translated]
    with pytest.raises(ValidationError, match="tgt_lang must be given"):
        pipeline("translation", chat_llama)(TEXT)
    with pytest.raises(ValidationError, match="has no chat template"):
        pipeline("summarization", goldens / "llama", tokenizer=goldens / "wordpiece")
