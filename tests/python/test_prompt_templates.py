"""What is put before a text: the prompts of sentence-transformers folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rustllm import LLM, ModelLoadError
from rustllm.prompt_templates import PromptTemplates


def write(folder: Path, **settings: Any) -> Path:
    (folder / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return folder


def test_a_folder_without_prompts(tmp_path: Path) -> None:
    templates = PromptTemplates.from_folder(tmp_path)
    assert templates == PromptTemplates()
    assert (templates.prefix(), templates.prefix(prompt="x: ")) == ("", "x: ")
    assert templates.apply("Text", "x: ") == "x: Text"


def test_the_default_prompt_and_lower_case(tmp_path: Path) -> None:
    write(tmp_path, prompts={"query": "Find: ", "document": ""}, default_prompt_name="query")
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    templates = PromptTemplates.from_folder(tmp_path)
    assert [templates.prefix(), templates.prefix("document")] == ["Find: ", ""]
    assert templates.prefix(prompt="") == ""
    assert templates.apply("A Text", templates.prefix()) == "find: a text"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompts": ["a"]}, "prompts must be an object of strings"),
        ({"prompts": {"a": 1}}, "prompts must be an object of strings"),
        ({"prompts": {"a": "x"}, "default_prompt_name": "b"}, "is 'b', and prompts has a"),
    ],
)
def test_broken_settings(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelLoadError, match=message):
        PromptTemplates.from_folder(write(tmp_path, **settings))


def test_the_default_is_used_where_nothing_is_said(sentence_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(sentence_model, folder)
    write(folder, prompts={"query": "q: "}, default_prompt_name="query")
    llm = LLM(str(folder), dtype="float32")
    [by_default], [written] = llm.embed("abc"), llm.embed("q: abc", prompt="")
    assert by_default.prompt_token_ids == written.prompt_token_ids
    [ids] = llm.embed([[2, 6, 3]])
    assert ids.prompt_token_ids == [2, 6, 3], "token ids are taken as they are"
