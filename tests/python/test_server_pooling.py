"""Embeddings, classes, scores and rankings over HTTP, from servers that run."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import openai
import pytest
from pooled_models import CLS, PROMPTS, SEP, letters
from running_server import ServerProcess, ServerThread, server_thread

from rustllm import LLM, PoolingParams

TEXTS = ["abc def", "hello", "a b c"]


@pytest.fixture(scope="module")
def embedder(sentence_model: Path) -> Iterator[ServerThread]:
    with server_thread(model=str(sentence_model), dtype="float32") as server:
        yield server


@pytest.fixture(scope="module")
def classes(classifier: Path) -> Iterator[ServerThread]:
    with server_thread(model=str(classifier), dtype="float32") as server:
        yield server


@pytest.fixture(scope="module")
def scorer(cross_encoder: Path) -> Iterator[ServerThread]:
    with server_thread(model=str(cross_encoder), dtype="float32") as server:
        yield server


@pytest.fixture(scope="module")
def generator() -> Iterator[ServerThread]:
    with server_thread() as server:
        yield server


@pytest.fixture(scope="module")
def expected(sentence_model: Path) -> Any:
    outputs = LLM(str(sentence_model), dtype="float32").embed(TEXTS)
    return np.array([output.outputs.embedding for output in outputs])


def posted(server: ServerThread, path: str, **body: Any) -> Any:
    reply = server.ask("POST", path, body)
    assert reply.status == 200, reply.body
    return reply.json()


def refused(server: ServerThread, path: str, **body: Any) -> tuple[str, str | None]:
    reply = server.ask("POST", path, body)
    assert reply.status == 400, reply.body
    assert reply.error["type"] == "invalid_request_error"
    return reply.error["message"], reply.error["param"]


def test_embeddings_by_the_openai_client(sentence_model: Path, expected: Any) -> None:
    with ServerProcess("--dtype", "float32", model=sentence_model) as server:
        client = server.client()
        # The client asks for base64 of its own accord.
        answer = client.embeddings.create(model="bert_sentence", input=TEXTS)
        floats = client.embeddings.create(
            model="bert_sentence", input=TEXTS[1], encoding_format="float"
        )
        cut = client.embeddings.create(model="bert_sentence", input=TEXTS, dimensions=8)
        with pytest.raises(openai.NotFoundError, match="does not exist"):
            client.embeddings.create(model="other", input="a")
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert (answer.model, answer.object) == ("bert_sentence", "list")
    assert np.array_equal([item.embedding for item in answer.data], expected)
    assert np.array_equal(floats.data[0].embedding, expected[1])
    assert [len(item.embedding) for item in cut.data] == [8, 8, 8]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 8 + 7 + 5


def test_inputs_of_all_shapes(embedder: ServerThread, expected: Any) -> None:
    ids = [[CLS, *letters(text), SEP] for text in TEXTS]
    for one in (TEXTS[0], ids[0]):
        [item] = posted(embedder, "/v1/embeddings", input=one)["data"]
        assert np.array_equal(item["embedding"], expected[0])
    for several in (TEXTS, ids):
        answer = posted(embedder, "/v1/embeddings", input=several)
        found = [item["embedding"] for item in answer["data"]]
        assert np.array_equal(found, expected)
    assert answer["usage"] == {"prompt_tokens": 20, "completion_tokens": 0, "total_tokens": 20}
    encoded = posted(embedder, "/v1/embeddings", input=TEXTS, encoding_format="base64")
    raw = base64.b64decode(encoded["data"][2]["embedding"])
    assert np.array_equal(np.frombuffer(raw, "<f4"), expected[2].astype(np.float32))


def test_prompts_and_activation(embedder: ServerThread) -> None:
    named = posted(embedder, "/v1/embeddings", input="abc", prompt_name="query")
    written = posted(embedder, "/v1/embeddings", input=PROMPTS["query"] + "abc")
    assert named["data"] == written["data"]
    raw = posted(embedder, "/v1/embeddings", input="abc", use_activation=False)
    older = posted(embedder, "/v1/embeddings", input="abc", normalize=False)
    assert raw["data"] == older["data"]
    assert not np.isclose(np.linalg.norm(raw["data"][0]["embedding"]), 1)


def test_arrays_of_any_task(embedder: ServerThread, expected: Any) -> None:
    first = posted(embedder, "/pooling", input=TEXTS)
    assert np.array_equal([item["data"] for item in first["data"]], expected)
    rows = posted(embedder, "/pooling", input="abc", task="token_embed")
    assert np.array(rows["data"][0]["data"]).shape == (5, 30)
    assert refused(embedder, "/pooling", input="abc", task="classify")[1] == "task"


def test_answers_are_bounded(embedder: ServerThread, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rustllm.server.pooling.MAX_ELEMENTS", 24 * 8)
    assert len(posted(embedder, "/pooling", input=TEXTS[0], task="token_embed")["data"]) == 1
    message, param = refused(embedder, "/pooling", input=TEXTS, task="token_embed")
    assert message.startswith("A request may ask for at most 8 rows") and param == "input"
    posted(embedder, "/pooling", input=TEXTS)


def test_classes(classes: ServerThread, classifier: Path) -> None:
    answer = posted(classes, "/classify", input=TEXTS)
    expected = LLM(str(classifier), dtype="float32").classify(TEXTS)
    for item, output in zip(answer["data"], expected, strict=True):
        assert item["probs"] == output.outputs.probs and item["num_classes"] == 3
        assert item["label"] == f"LABEL_{int(np.argmax(item['probs']))}"
    assert answer["id"].startswith("classify-")
    raw = posted(classes, "/classify", input="abc", use_activation=False)["data"][0]["probs"]
    params = PoolingParams(use_activation=False)
    [score] = LLM(str(classifier), dtype="float32").classify("abc", pooling_params=params)
    assert raw == score.outputs.probs


@pytest.mark.parametrize("path", ["/score", "/v1/score"])
def test_scores(scorer: ServerThread, cross_encoder: Path, path: str) -> None:
    outputs = LLM(str(cross_encoder), dtype="float32").score("abc", TEXTS)
    expected = [output.outputs.score for output in outputs]
    for first, second in (("text_1", "text_2"), ("queries", "documents"), ("data_1", "data_2")):
        answer = posted(scorer, path, **{first: "abc", second: TEXTS})
        assert [item["score"] for item in answer["data"]] == expected
    assert answer["data"][0].keys() == {"index", "object", "score"}
    assert answer["usage"]["prompt_tokens"] == sum(len(item.prompt_token_ids) for item in outputs)
    pairs = posted(scorer, path, text_1=["abc", "x"], text_2=["hello", "abc def"])
    assert pairs["data"][0]["score"] == expected[1] and len(pairs["data"]) == 2
    assert "1:1, 1:N or N:N" in refused(scorer, path, text_1=["a", "b"], text_2=["c"] * 3)[0]
    assert refused(scorer, path, text_1="a")[0].startswith("Give `text_1` and `text_2` or")


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_ranks(scorer: ServerThread, path: str) -> None:
    scores = posted(scorer, "/score", text_1="abc", text_2=TEXTS)["data"]
    best = sorted(scores, key=lambda item: -item["score"])
    documents = [TEXTS[0], {"text": TEXTS[1]}, TEXTS[2]]
    answer = posted(scorer, path, query="abc", documents=documents)
    assert [item["index"] for item in answer["results"]] == [item["index"] for item in best]
    for item in answer["results"]:
        assert item["document"] == {"text": TEXTS[item["index"]]}
        assert item["relevance_score"] == scores[item["index"]]["score"]
    short = posted(scorer, path, query="abc", documents=TEXTS, top_n=1, return_documents=False)
    assert short["results"] == [
        {"index": best[0]["index"], "relevance_score": best[0]["score"]},
    ]
    assert short["usage"].keys() == {"prompt_tokens", "total_tokens"}


def test_an_embedder_ranks_by_cosine(embedder: ServerThread, expected: Any) -> None:
    answer = posted(embedder, "/rerank", query=TEXTS[1], documents=TEXTS)
    first, *_ = answer["results"]
    assert first["index"] == 1 and np.isclose(first["relevance_score"], 1)
    scores = {item["index"]: item["relevance_score"] for item in answer["results"]}
    assert np.allclose([scores[i] for i in range(3)], expected @ expected[1], atol=1e-6)


def test_tokens(embedder: ServerThread) -> None:
    answer = posted(embedder, "/tokenize", prompt="abc", return_token_strs=True)
    assert answer["tokens"] == [CLS, *letters("abc"), SEP]
    assert (answer["count"], answer["max_model_len"]) == (5, 48)
    assert posted(embedder, "/detokenize", tokens=letters("abc")).keys() == {"prompt"}


def test_long_inputs_are_refused_or_cut(embedder: ServerThread) -> None:
    message, _ = refused(embedder, "/v1/embeddings", input=["a", "a " * 60])
    assert "maximum context length is 48" in message
    answer = posted(embedder, "/v1/embeddings", input="a " * 60, truncate_prompt_tokens=-1)
    assert answer["usage"]["prompt_tokens"] == 48


@pytest.mark.parametrize(
    ("body", "message", "param"),
    [
        ({"input": []}, "input must be a string", "input"),
        ({"input": [[]]}, "input must not be an empty list", "input"),
        ({"input": ["a"] * 2049}, "at most 2048", "input"),
        ({"input": "a", "dimensions": 9}, "dimensions must be one of", "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", "encoding_format"),
        ({"input": "a", "prompt_name": "x"}, "prompt_name must be one of", "prompt_name"),
        ({"input": "a", "cache_salt": ""}, "cache_salt", "cache_salt"),
        ({"input": "a", "colour": 1}, "Unknown field: colour", "colour"),
        ({"input": "a", "truncate_prompt_tokens": 99}, "greater than", "truncate_prompt_tokens"),
        ({"input": [[101]]}, "out of vocabulary", None),
        ({"messages": [{}]}, "`messages` is not supported", "messages"),
        ({"input": "\ud800"}, "lone surrogate", "text"),
    ],
)
def test_bad_requests(
    embedder: ServerThread, body: dict[str, Any], message: str, param: str | None
) -> None:
    text, blamed = refused(embedder, "/v1/embeddings", **body)
    assert message in text
    assert param is None or blamed == param


def test_routes_a_model_cannot_serve(
    embedder: ServerThread, scorer: ServerThread, classes: ServerThread, generator: ServerThread
) -> None:
    message, param = refused(embedder, "/v1/completions", prompt="a")
    assert message.startswith("The model does not support the Completions API: it is served for")
    assert param == "model"
    chat = {"messages": [{"role": "user", "content": "a"}]}
    assert "Chat Completions API" in refused(embedder, "/v1/chat/completions", **chat)[0]
    assert "Classification API" in refused(embedder, "/classify", input="a")[0]
    assert "Embeddings API" in refused(scorer, "/v1/embeddings", input="a")[0]
    assert "num_labels == 1" in refused(classes, "/score", text_1="a", text_2="b")[0]
    bodies: dict[str, dict[str, Any]] = {
        "/v1/embeddings": {"input": "a"},
        "/classify": {"input": "a"},
        "/pooling": {"input": "a"},
        "/score": {"text_1": "a", "text_2": "b"},
        "/rerank": {"query": "a", "documents": ["b"]},
    }
    for path, body in bodies.items():
        assert "--runner pooling" in refused(generator, path, **body)[0]
    assert posted(generator, "/v1/completions", prompt="a", max_tokens=1)["choices"]
