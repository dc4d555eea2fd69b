"""The shapes a prompt may have."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rustllm.errors import ValidationError
from rustllm.inputs import ParsedPrompt, parse_prompt, parse_prompts


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hi", ParsedPrompt("hi", None)),
        ("", ParsedPrompt("", None)),
        ({"prompt": "hi"}, ParsedPrompt("hi", None)),
        ([1, 2], ParsedPrompt(None, [1, 2])),
        ((1, 2), ParsedPrompt(None, [1, 2])),
        (np.array([1, 2]), ParsedPrompt(None, [1, 2])),
        ({"prompt_token_ids": [1], "prompt": "a"}, ParsedPrompt("a", [1])),
        ({"prompt": "a", "cache_salt": "s"}, ParsedPrompt("a", None, "s")),
        ({"prompt": "a", "multi_modal_data": None}, ParsedPrompt("a", None)),
    ],
)
def test_shapes(prompt: Any, expected: ParsedPrompt) -> None:
    assert parse_prompt(prompt) == expected
    assert parse_prompts(prompt) == [expected]
    assert parse_prompts([prompt, prompt]) == [expected, expected]


def test_several_prompts() -> None:
    assert parse_prompts([]) == []
    mixed = parse_prompts(["a", [1], {"prompt": "b"}])
    assert [item.text for item in mixed] == ["a", None, "b"]
    assert parse_prompts(iter(["a", "b"])) == [parse_prompt("a"), parse_prompt("b")]


@pytest.mark.parametrize(
    ("prompt", "parameter"),
    [
        ({"prompt": "a", "multi_modal_data": {"image": 1}}, "multi_modal_data"),
        ({"prompt_embeds": [[0.0]]}, "prompt_embeds"),
        ({"encoder_prompt": "a", "decoder_prompt": "b"}, "encoder_prompt"),
        ({"prompt": "a", "mm_processor_kwargs": {}}, "mm_processor_kwargs"),
        ({"promt": "a"}, "promt"),
        ({}, "prompt"),
        ({"prompt": 3}, "prompt"),
        ({"prompt": "a", "cache_salt": ""}, "cache_salt"),
        ({"prompt": "a", "cache_salt": 5}, "cache_salt"),
        ({"prompt_token_ids": "abc"}, "prompt_token_ids"),
        ({"prompt_token_ids": [1, "a"]}, "prompt_token_ids"),
        ({"prompt_token_ids": [1.0]}, "prompt_token_ids"),
        ({"prompt_token_ids": [True]}, "prompt_token_ids"),
        ([5, -1], "prompt_token_ids"),
        ([2**32], "prompt_token_ids"),
        (3, "prompt"),
        (None, "prompt"),
        (b"abc", "prompt"),
        ([1, "a"], "prompt"),
    ],
)
def test_refused_prompts_name_the_cause(prompt: Any, parameter: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse_prompt(prompt)
    assert caught.value.parameter == parameter
