"""Pipelines return what those of transformers returned for the same calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rustllm import pipeline

CASES = (
    "pipeline_features",
    "pipeline_mlm",
    "pipeline_ner",
    "pipeline_ner_byte_level",
    "pipeline_nli",
    "pipeline_qa",
    "pipeline_ranker",
    "pipeline_text",
    "pipeline_zero_shot",
    "pipeline_zero_shot_deberta",
)


def assert_same(found: Any, expected: Any, absolute: float) -> None:
    """Equal structures, keys and orders; numbers with a fraction within a hundred-thousandth."""
    if isinstance(expected, dict):
        assert isinstance(found, dict) and list(found) == list(expected), found
        for key, value in expected.items():
            assert_same(found[key], value, absolute)
    elif isinstance(expected, list):
        assert isinstance(found, list) and len(found) == len(expected), found
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, absolute)
    elif isinstance(expected, float):
        assert type(found) is float
        assert found == pytest.approx(expected, rel=1e-5, abs=absolute)
    else:
        assert type(found) is type(expected) and found == expected


@pytest.mark.parametrize("case", CASES)
def test_returns_what_transformers_does(goldens: Path, case: str) -> None:
    reference = json.loads((goldens / case / "pipeline_reference.json").read_text())
    # Features are near zero here and there, shares of scores are not.
    absolute = 2e-5 if case == "pipeline_features" else 0.0
    options = {"dtype": "float32", "tokenizer": goldens / reference["tokenizer"]}
    for call in reference["calls"]:
        given = {
            name: value for name, value in call["options"].items() if name != "tokenizer_kwargs"
        }
        given |= call["options"].get("tokenizer_kwargs", {})
        pipe = pipeline(
            reference["task"], goldens / reference["model"], **options, **call["defaults"]
        )
        try:
            assert_same(pipe(call["inputs"], **given), call["result"], absolute)
        except AssertionError as error:
            raise AssertionError(f"{call['inputs']!r} with {given}") from error
