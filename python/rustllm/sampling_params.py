"""How a request is sampled: vLLM's `SamplingParams`, its names and its defaults."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from enum import Enum, IntEnum
from typing import Any, Final

from rustllm import _core
from rustllm.errors import ValidationError
from rustllm.logger import warning_once

__all__ = ["RequestOutputKind", "SamplingParams", "SamplingType"]

SAMPLING_EPS: Final = 1e-5
"""A temperature below this is greedy sampling."""

MIN_TEMPERATURE: Final = 1e-2
"""Smaller temperatures above 0 are raised to this one."""

_LATER: Final = "rustllm does not support it yet"

_UNSUPPORTED: Final[Mapping[str, str]] = {
    "watermarking": _LATER,
    "prompt_logprob_token_ids": _LATER,
    "prompt_logprob_start": _LATER,
    "logprob_token_ids": _LATER,
    "flat_logprobs": "logprobs are always lists of dicts",
    "stream_interval": "outputs are streamed after every step",
    "structured_outputs": _LATER,
    "extra_args": "there are no plugins that could read it",
    "skip_reading_prefix_cache": "give the prompt a `cache_salt` of its own instead",
    "thinking_token_budget": _LATER,
    "repetition_detection": _LATER,
    "routed_experts_prompt_start": _LATER,
    "trace_decode_token_ids": _LATER,
}
"""vLLM's fields that must keep their defaults here, and why."""


class RequestOutputKind(Enum):
    """What each `RequestOutput` of a stream holds."""

    CUMULATIVE = 0
    """Everything so far."""
    DELTA = 1
    """What is new since the last one."""
    FINAL_ONLY = 2
    """Nothing until the request has finished, then everything."""


class SamplingType(IntEnum):
    """How tokens are chosen."""

    GREEDY = 0
    RANDOM = 1
    RANDOM_SEED = 2


@dataclass(eq=True, repr=False)
class SamplingParams:
    """Sampling parameters of a request, as in vLLM.

    Args:
        n: Completions to generate for the prompt.
        presence_penalty: Above 0 favours tokens the completion has not used; in [-2, 2].
        frequency_penalty: The same, growing with the number of uses; in [-2, 2].
        repetition_penalty: Above 1 disfavours tokens of prompt and completion; above 0.
        temperature: 0 picks the likeliest token, higher is more random; in [0, 2].
        top_p: Sample from the likeliest tokens that make up this much probability; in (0, 1].
        top_k: Sample from this many of the likeliest tokens; 0 or -1 for all.
        min_p: Drop tokens less likely than this share of the likeliest; in [0, 1].
        seed: Makes the request reproducible; `None` or -1 for the engine's choice.
        stop: Strings that end the completion; they are left out of its text.
        stop_token_ids: Tokens that end the completion.
        ignore_eos: Go on after end-of-sequence.
        max_tokens: Most tokens to generate; `None` for as many as fit the model.
        min_tokens: Tokens to generate before anything may end the completion.
        logprobs: Return the log probabilities of the chosen token and of this many of the
            likeliest; -1 for the whole vocabulary.
        prompt_logprobs: The same for each token of the prompt.
        detokenize: Whether to return text; without it `stop` and `bad_words` cannot work.
        skip_special_tokens: Leave special tokens out of the text.
        spaces_between_special_tokens: Whether a decoder that puts spaces between tokens puts them
            between special tokens too.
        include_stop_str_in_output: Keep the stop string, or stop token, in the text.
        output_kind: What each output of a stream holds.
        logit_bias: Added to the logits of these token ids.
        allowed_token_ids: Sample from these tokens only.
        bad_words: Words that may not be generated.

    The other arguments are vLLM's names for what is not supported: anything but the default is
    refused.

    Raises:
        ValidationError: a value outside what is allowed; also a `ValueError`.
    """

    n: int = 1
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    temperature: float = 1.0
    watermarking: None = None
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    prompt_logprob_token_ids: None = None
    prompt_logprob_start: None = None
    logprob_token_ids: None = None
    flat_logprobs: bool = False
    detokenize: bool = True
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    output_kind: RequestOutputKind = RequestOutputKind.CUMULATIVE
    stream_interval: None = None
    skip_clone: bool = False
    structured_outputs: None = None
    logit_bias: dict[int, float] | None = None
    allowed_token_ids: list[int] | None = None
    extra_args: None = None
    bad_words: list[str] | None = None
    skip_reading_prefix_cache: None = None
    thinking_token_budget: None = None
    repetition_detection: None = None
    routed_experts_prompt_start: int = 0
    trace_decode_token_ids: None = None
    bad_words_token_ids: list[list[int]] = field(default_factory=list, init=False, compare=False)
    """`bad_words` as token ids; filled in when the request is tokenized."""

    def __post_init__(self) -> None:
        self._normalize()
        self.verify_text_rules()
        _core.check_sampling_params(self)
        if self.temperature < SAMPLING_EPS:
            self.top_p, self.top_k, self.min_p = 1.0, 0, 0.0

    @staticmethod
    def from_optional(**values: Any) -> SamplingParams:
        """Makes params from values of which `None` means the default, as HTTP requests have them.

        Keys of `logit_bias` may be strings; its values are clamped to [-100, 100].
        """
        bias = values.get("logit_bias")
        if bias is not None:
            # In this order a NaN stays one, for the rules to refuse.
            values["logit_bias"] = {
                token_id: min(max(value, -100.0), 100.0)
                for token_id, value in _integer_keys(bias).items()
            }
        keeps_none = {"max_tokens"}
        given = {
            name: value for name, value in values.items() if value is not None or name in keeps_none
        }
        return SamplingParams(**given)

    def clone(self) -> SamplingParams:
        """A copy that shares nothing mutable with this one."""
        clone = copy.copy(self)
        for name in ("stop", "stop_token_ids", "allowed_token_ids", "bad_words", "logit_bias"):
            setattr(clone, name, copy.copy(getattr(self, name)))
        return clone

    @property
    def sampling_type(self) -> SamplingType:
        """Greedy, random, or random with a seed of its own."""
        if self.temperature < SAMPLING_EPS:
            return SamplingType.GREEDY
        return SamplingType.RANDOM if self.seed is None else SamplingType.RANDOM_SEED

    @property
    def all_stop_token_ids(self) -> set[int]:
        """The stop tokens of this request; end-of-sequence is the engine's."""
        return set(self.stop_token_ids or ())

    @property
    def stop_strings(self) -> list[str]:
        """`stop` as a list."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def __repr__(self) -> str:
        shown = (
            f"{item.name}={getattr(self, item.name)!r}"
            for item in fields(self)
            if item.init and getattr(self, item.name) != _DEFAULTS[item.name]
        )
        return f"SamplingParams({', '.join(shown)})"

    def _normalize(self) -> None:
        """Brings values that may be spelled in several ways into one."""
        for name in _UNSUPPORTED:
            value = getattr(self, name)
            if value != _DEFAULTS[name]:
                message = f"{name}={value!r} is not supported: {_UNSUPPORTED[name]}"
                raise ValidationError(message, parameter=name, value=value)
        self.stop = _strings("stop", self.stop)
        self.bad_words = _unique(_strings("bad_words", self.bad_words))
        self.stop_token_ids = _unique(_sequence("stop_token_ids", self.stop_token_ids))
        self.allowed_token_ids = _sequence("allowed_token_ids", self.allowed_token_ids)
        self.logprobs = _count(self.logprobs)
        self.prompt_logprobs = _count(self.prompt_logprobs)
        if self.seed == -1:
            self.seed = None
        if self.top_k == -1:
            self.top_k = 0
        if self.logit_bias is not None:
            self.logit_bias = _integer_keys(self.logit_bias)
        _require_number("temperature", self.temperature)
        if 0 < self.temperature < MIN_TEMPERATURE:
            warning_once(
                f"temperature {self.temperature} is below {MIN_TEMPERATURE}, which can make "
                f"logits overflow; using {MIN_TEMPERATURE}. 0 is greedy sampling."
            )
            self.temperature = MIN_TEMPERATURE

    def verify_text_rules(self) -> None:
        """Checks the rules about text; those about numbers are the engine's.

        Raises:
            ValidationError: an empty string, or strings without detokenization.
        """
        if not isinstance(self.output_kind, RequestOutputKind):
            raise ValidationError(
                f"output_kind must be a RequestOutputKind, got {self.output_kind!r}",
                parameter="output_kind",
                value=self.output_kind,
            )
        for name, strings in (("stop", self.stop_strings), ("bad_words", self.bad_words or [])):
            if any(not text for text in strings):
                message = f"{name} cannot contain an empty string."
                raise ValidationError(message, parameter=name, value=strings)
        if self.stop and not self.detokenize:
            raise ValidationError(
                "stop strings are only supported when detokenize is True. "
                "Set detokenize=True to use stop.",
                parameter="stop",
                value=self.stop,
            )


_DEFAULTS: Final[dict[str, Any]] = {item.name: item.default for item in fields(SamplingParams)}
_DEFAULTS.update(stop=[], stop_token_ids=[], bad_words=[])


def _count(value: int | bool | None) -> int | None:
    """`True` asks for one, `False` for none."""
    if isinstance(value, bool):
        return 1 if value else None
    return value


def _require_number(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or math.isnan(value):
        message = f"{name} must be a finite number, got {value!r}"
        raise ValidationError(message, parameter=name, value=value)


def _sequence(name: str, value: Any) -> list[Any] | None:
    if value is None:
        return None
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        message = f"{name} must be a list, got {value!r}"
        raise ValidationError(message, parameter=name, value=value)
    return list(value)


def _strings(name: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    items = _sequence(name, value) or []
    for item in items:
        if not isinstance(item, str):
            message = f"{name} must contain only strings, got {item!r}"
            raise ValidationError(message, parameter=name, value=value)
    return items


def _unique(values: list[Any] | None) -> list[Any]:
    """The values without repetitions, in their order; what cannot be hashed stays to be refused."""
    try:
        return list(dict.fromkeys(values or ()))
    except TypeError:
        return list(values or ())


def _integer_keys(bias: Any) -> dict[int, float]:
    try:
        return {int(token_id): value for token_id, value in bias.items()}
    except (AttributeError, TypeError, ValueError):
        raise ValidationError(
            "logit_bias contains key(s) that cannot be converted to integer token IDs",
            parameter="logit_bias",
            value=bias,
        ) from None
