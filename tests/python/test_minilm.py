"""A real model gives the vectors, and the order of documents, that sentence-transformers gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rustllm import LLM, ValidationError


@pytest.fixture(scope="module")
def reference(goldens: Path) -> dict[str, Any]:
    stored: dict[str, Any] = json.loads((goldens / "minilm_reference.json").read_text("utf-8"))
    return stored


@pytest.fixture(scope="module")
def llm(minilm: Path) -> LLM:
    return LLM(str(minilm), dtype="float32")


def embed(llm: LLM, texts: list[str]) -> np.ndarray[Any, Any]:
    outputs = llm.embed(texts, use_tqdm=False)
    return np.array([output.outputs.embedding for output in outputs])


def test_vectors_are_those_of_sentence_transformers(llm: LLM, reference: dict[str, Any]) -> None:
    found = embed(llm, reference["documents"])
    leading = np.array(reference["leading"])
    part = found[:, : leading.shape[1]]
    cosine = (
        (part * leading).sum(1) / np.linalg.norm(part, axis=1) / np.linalg.norm(leading, axis=1)
    )
    assert cosine.min() > 0.99999
    assert np.abs(part - leading).max() < 2e-6
    assert np.abs(found @ found.T - np.array(reference["document_cosines"])).max() < 2e-6


def test_documents_are_in_the_same_order(llm: LLM, reference: dict[str, Any]) -> None:
    cosines = np.array(reference["query_cosines"])
    for query, expected, ranking in zip(
        reference["queries"], cosines, reference["rankings"], strict=True
    ):
        outputs = llm.score(query, reference["documents"], use_tqdm=False)
        scores = np.array([output.outputs.score for output in outputs])
        assert np.abs(scores - expected).max() < 2e-6
        assert np.argsort(-scores, kind="stable").tolist() == ranking


def test_what_sentence_transformers_cuts_is_refused(llm: LLM) -> None:
    with pytest.raises(ValidationError, match="maximum context length is 256"):
        llm.embed("word " * 300)
    [cut] = llm.embed("word " * 300, tokenization_kwargs={"truncate_prompt_tokens": -1})
    assert len(cut.prompt_token_ids) == 256
