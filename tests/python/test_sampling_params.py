"""SamplingParams: vLLM's defaults, normalisations and refusals."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
from typing import Any

import pytest

from rustllm import RequestOutputKind, SamplingParams, ValidationError
from rustllm.logger import warning_once
from rustllm.sampling_params import SamplingType

VLLM_DEFAULTS: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
    "repetition_penalty": 1.0,
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "seed": None,
    "stop": [],
    "stop_token_ids": [],
    "ignore_eos": False,
    "max_tokens": 16,
    "min_tokens": 0,
    "logprobs": None,
    "prompt_logprobs": None,
    "detokenize": True,
    "skip_special_tokens": True,
    "spaces_between_special_tokens": True,
    "include_stop_str_in_output": False,
    "output_kind": RequestOutputKind.CUMULATIVE,
    "logit_bias": None,
    "allowed_token_ids": None,
    "bad_words": [],
}


def test_defaults_are_those_of_vllm() -> None:
    params = SamplingParams()
    assert {name: getattr(params, name) for name in VLLM_DEFAULTS} == VLLM_DEFAULTS
    assert repr(params) == "SamplingParams()"


@pytest.mark.parametrize(
    ("given", "name", "expected"),
    [
        ({"stop": "a"}, "stop", ["a"]),
        ({"stop": ("a", "b")}, "stop", ["a", "b"]),
        ({"bad_words": ["a", "b", "a"]}, "bad_words", ["a", "b"]),
        ({"stop_token_ids": (3, 1, 3)}, "stop_token_ids", [3, 1]),
        ({"logprobs": True}, "logprobs", 1),
        ({"logprobs": False}, "logprobs", None),
        ({"logprobs": 0}, "logprobs", 0),
        ({"prompt_logprobs": True}, "prompt_logprobs", 1),
        ({"seed": -1}, "seed", None),
        ({"seed": 0}, "seed", 0),
        ({"top_k": -1}, "top_k", 0),
        ({"logit_bias": {"5": 1.0}}, "logit_bias", {5: 1.0}),
        ({"max_tokens": None}, "max_tokens", None),
    ],
)
def test_normalisation(given: dict[str, Any], name: str, expected: Any) -> None:
    value = getattr(SamplingParams(**given), name)
    assert value == expected
    assert type(value) is type(expected)


def test_small_temperatures_are_raised_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    warning_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="rustllm"):
        assert SamplingParams(temperature=1e-6).temperature == 0.01
    assert "temperature 1e-06 is below 0.01" in caplog.text
    assert SamplingParams(temperature=0.01).temperature == 0.01


def test_greedy_resets_what_it_does_not_use() -> None:
    params = SamplingParams(temperature=0, top_p=0.5, top_k=3, min_p=0.1)
    assert (params.top_p, params.top_k, params.min_p) == (1.0, 0, 0.0)
    assert params.sampling_type is SamplingType.GREEDY
    assert SamplingParams().sampling_type is SamplingType.RANDOM
    assert SamplingParams(seed=3).sampling_type is SamplingType.RANDOM_SEED


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"stop": ""}, "stop cannot contain an empty string"),
        ({"stop": ["a", ""]}, "stop cannot contain an empty string"),
        ({"stop": [1]}, "stop must contain only strings"),
        ({"stop": 5}, "stop must be a list"),
        ({"stop": "a", "detokenize": False}, "only supported when detokenize is True"),
        ({"bad_words": [""]}, "bad_words cannot contain an empty string"),
        ({"stop_token_ids": "12"}, "stop_token_ids must be a list"),
        ({"stop_token_ids": ["a"]}, "stop_token_ids"),
        ({"stop_token_ids": [[1]]}, "stop_token_ids"),
        ({"logit_bias": {"a": 1}}, "cannot be converted to integer token IDs"),
        ({"logit_bias": [1]}, "cannot be converted to integer token IDs"),
        ({"output_kind": 1}, "output_kind must be a RequestOutputKind"),
        ({"temperature": float("nan")}, "temperature must be a finite number"),
        ({"temperature": "1"}, "temperature must be a finite number"),
        ({"temperature": None}, "temperature must be a finite number"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": 2.1}, "temperature"),
        ({"n": 0}, "n must be at least 1"),
        ({"n": 2, "temperature": 0}, "n must be 1 when using greedy sampling"),
        ({"n": "2"}, "n must be an int"),
        ({"presence_penalty": 2.1}, "presence_penalty must be in"),
        ({"frequency_penalty": -2.1}, "frequency_penalty must be in"),
        ({"repetition_penalty": 0}, "repetition_penalty must be greater than zero"),
        ({"top_p": 0}, "top_p must be in"),
        ({"top_p": 1.1}, "top_p must be in"),
        ({"top_k": -2}, "top_k must be 0"),
        ({"top_k": 1.5}, "top_k must be an int"),
        ({"min_p": 1.1}, "min_p must be in"),
        ({"max_tokens": 0}, "max_tokens must be at least 1"),
        ({"min_tokens": -1}, "min_tokens must be greater than or equal to 0"),
        ({"min_tokens": 5, "max_tokens": 4}, "min_tokens must be less than or equal to max_tokens"),
        ({"logprobs": -2}, "logprobs must be non-negative or -1"),
        ({"prompt_logprobs": -2}, "prompt_logprobs must be non-negative or -1"),
        ({"allowed_token_ids": []}, "allowed_token_ids"),
        ({"n": True}, "n must be an int"),
        ({"max_tokens": 2**70}, "max_tokens"),
        ({"presence_penalty": "a"}, "presence_penalty"),
        ({"top_p": float("nan")}, "top_p"),
    ],
)
def test_refused_values(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        SamplingParams(**given)
    assert isinstance(caught.value, ValueError)
    assert caught.value.parameter in given


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("structured_outputs", {"json": {}}),
        ("logprob_token_ids", [1]),
        ("prompt_logprob_token_ids", [1]),
        ("prompt_logprob_start", 3),
        ("flat_logprobs", True),
        ("thinking_token_budget", 5),
        ("repetition_detection", {}),
        ("watermarking", {}),
        ("trace_decode_token_ids", [1]),
        ("extra_args", {"a": 1}),
        ("stream_interval", 2),
        ("skip_reading_prefix_cache", True),
        ("routed_experts_prompt_start", 1),
    ],
)
def test_unsupported_fields_are_refused_by_name(name: str, value: Any) -> None:
    default = inspect.signature(SamplingParams).parameters[name].default
    SamplingParams(**{name: default})
    with pytest.raises(ValidationError, match=f"{name}=.* is not supported") as caught:
        SamplingParams(**{name: value})
    assert caught.value.parameter == name


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="best_of"):
        SamplingParams(best_of=2)  # type: ignore[call-arg]


def test_clamping_a_bias_does_not_hide_one_that_is_no_number() -> None:
    with pytest.raises(ValidationError, match="logit_bias"):
        SamplingParams.from_optional(logit_bias={1: float("nan")})


def test_from_optional() -> None:
    params = SamplingParams.from_optional(
        n=None, temperature=None, top_k=5, logit_bias={"3": 500, "4": -500}, max_tokens=None
    )
    assert (params.n, params.temperature, params.top_k) == (1, 1.0, 5)
    assert params.logit_bias == {3: 100.0, 4: -100.0}
    assert params.max_tokens is None
    assert SamplingParams.from_optional() == SamplingParams()
    with pytest.raises(ValidationError, match="cannot be converted to integer token IDs"):
        SamplingParams.from_optional(logit_bias={"a": 1})


def test_equality_pickling_cloning_and_repr() -> None:
    params = SamplingParams(
        temperature=0.5, stop=["a"], stop_token_ids=[1], logit_bias={1: 2.0}, bad_words=["x"]
    )
    assert pickle.loads(pickle.dumps(params)) == params == copy.deepcopy(params)
    assert params != SamplingParams()
    assert eval(repr(params)) == params
    clone = params.clone()
    clone.stop.append("b")  # type: ignore[union-attr]
    clone.logit_bias[7] = 1.0  # type: ignore[index]
    assert params.stop == ["a"]
    assert params.logit_bias == {1: 2.0}


def test_the_text_rules_hold_after_changes() -> None:
    params = SamplingParams(stop=["a"])
    params.stop = ""
    with pytest.raises(ValidationError, match="stop cannot contain an empty string"):
        params.verify_text_rules()
