"""Sampling defaults and end-of-sequence tokens from a model's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rustllm.engine_args import EngineArgs
from rustllm.errors import ModelLoadError, ValidationError
from rustllm.generation_config import default_sampling_fields, end_of_sequence_ids
from rustllm.tokenizer import Tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text('{"eos_token_id": 5}')
    generation = {
        "temperature": 0.7,
        "top_k": 20,
        "top_p": None,
        "max_new_tokens": 99,
        "eos_token_id": [7, 3],
        "do_sample": True,
    }
    (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    return tmp_path


def test_sampling_defaults(folder: Path) -> None:
    fields = {"temperature": 0.7, "top_k": 20, "max_tokens": 99}
    assert default_sampling_fields(EngineArgs(), folder) == fields
    for name in ("vllm", "rustllm"):
        assert default_sampling_fields(EngineArgs(generation_config=name), folder) == {}
    args = EngineArgs(override_generation_config={"temperature": 0.1, "min_p": 0.2})
    assert default_sampling_fields(args, folder) == {**fields, "temperature": 0.1, "min_p": 0.2}


def test_another_folder_or_file(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "generation_config.json").write_text('{"top_p": 0.3}')
    for name in (str(other), str(other / "generation_config.json")):
        args = EngineArgs(generation_config=name)
        assert default_sampling_fields(args, folder) == {"top_p": 0.3}
    with pytest.raises(ValidationError, match="generation_config must be auto, vllm, or a folder"):
        default_sampling_fields(EngineArgs(generation_config="nowhere"), folder)


def test_no_file_and_bad_files(tmp_path: Path) -> None:
    assert default_sampling_fields(EngineArgs(), tmp_path) == {}
    (tmp_path / "generation_config.json").write_text("{")
    with pytest.raises(ModelLoadError, match=r"cannot read .*generation_config\.json"):
        default_sampling_fields(EngineArgs(), tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [3, 7]),
        ({"generation_config": "vllm"}, [3, 7]),
        ({"override_generation_config": {"eos_token_id": 9}}, [9]),
        ({"hf_overrides": {"eos_token_id": 8}}, [3, 7]),
    ],
)
def test_end_of_sequence(folder: Path, options: dict[str, Any], expected: list[int]) -> None:
    assert end_of_sequence_ids(EngineArgs(**options), folder, None) == expected


def test_end_of_sequence_of_config_and_tokenizer(folder: Path, chat_llama: Path) -> None:
    (folder / "generation_config.json").unlink()
    tokenizer = Tokenizer.from_folder(chat_llama)
    assert end_of_sequence_ids(EngineArgs(), folder, None) == [5]
    assert end_of_sequence_ids(EngineArgs(), folder, tokenizer) == [2, 5]
    args = EngineArgs(hf_overrides={"eos_token_id": 8})
    assert end_of_sequence_ids(args, folder, tokenizer) == [2, 8]
    (folder / "config.json").write_text("{}")
    assert end_of_sequence_ids(EngineArgs(), folder, None) is None
    (folder / "config.json").write_text('{"eos_token_id": ["a"]}')
    with pytest.raises(ValidationError, match="eos_token_id must be a token id"):
        end_of_sequence_ids(EngineArgs(), folder, None)
