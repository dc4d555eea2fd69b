"""The shapes a prompt may have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Final, TypedDict

from rustllm.errors import ValidationError

__all__ = [
    "ParsedPrompt",
    "PromptType",
    "TextPrompt",
    "TokensPrompt",
    "parse_prompt",
    "parse_prompts",
]


class _PromptOptions(TypedDict, total=False):
    cache_salt: str


class TextPrompt(_PromptOptions):
    """A prompt given as text."""

    prompt: str


class _TokensPromptOptions(_PromptOptions, total=False):
    prompt: str
    token_type_ids: list[int]


class TokensPrompt(_TokensPromptOptions):
    """A prompt given as token ids; `prompt` may say what text they are."""

    prompt_token_ids: list[int]


PromptType = str | Sequence[int] | TextPrompt | TokensPrompt
"""What `LLM.generate` takes as one prompt."""

_KNOWN_KEYS: Final = frozenset({"prompt", "prompt_token_ids", "token_type_ids", "cache_salt"})

_REFUSED_KEYS: Final[Mapping[str, str]] = {
    "multi_modal_data": "only text prompts are supported",
    "multi_modal_uuids": "only text prompts are supported",
    "mm_processor_kwargs": "only text prompts are supported",
    "prompt_embeds": "prompts are text or token ids",
    "encoder_prompt": "encoder-decoder models are not supported",
    "decoder_prompt": "encoder-decoder models are not supported",
    "prompt_token_offsets": "prompts are text or token ids",
}
"""vLLM's keys that have no meaning here, and why; they are accepted when they hold `None`."""


@dataclass(frozen=True, slots=True)
class ParsedPrompt:
    """A prompt of any shape; one of `text` and `token_ids` is set, or both."""

    text: str | None
    token_ids: list[int] | None
    cache_salt: str | None = None
    token_type_ids: list[int] | None = None
    """The segment of each token, for models that have segments; only with `token_ids`."""


def parse_prompt(prompt: Any) -> ParsedPrompt:
    """Reads one prompt.

    Raises:
        ValidationError: not a prompt, or one with something that is not supported.
    """
    if isinstance(prompt, str):
        return ParsedPrompt(prompt, None)
    if isinstance(prompt, Mapping):
        return _parse_mapping(prompt)
    if _is_token_ids(prompt):
        return ParsedPrompt(None, _read_token_ids(prompt))
    message = (
        "a prompt must be a string, a list of token ids, {'prompt': ...} or "
        f"{{'prompt_token_ids': ...}}, got {type(prompt).__name__}"
    )
    raise ValidationError(message, parameter="prompt", value=prompt)


def parse_prompts(prompts: Any) -> list[ParsedPrompt]:
    """Reads one prompt or several. A list of integers is one prompt."""
    if isinstance(prompts, (str, Mapping)) or not isinstance(prompts, Iterable):
        return [parse_prompt(prompts)]
    items = list(prompts)
    if items and _is_token_ids(items):
        return [parse_prompt(items)]
    return [parse_prompt(prompt) for prompt in items]


def _parse_mapping(prompt: Mapping[str, Any]) -> ParsedPrompt:
    for key, value in prompt.items():
        if key in _REFUSED_KEYS:
            if value is not None:
                message = f"{key} is not supported: {_REFUSED_KEYS[key]}"
                raise ValidationError(message, parameter=key)
        elif key not in _KNOWN_KEYS:
            message = f"unknown prompt key {key!r}; known are {', '.join(sorted(_KNOWN_KEYS))}"
            raise ValidationError(message, parameter=str(key), value=value)
    text, token_ids = prompt.get("prompt"), prompt.get("prompt_token_ids")
    salt = prompt.get("cache_salt")
    if text is None and token_ids is None:
        message = "a prompt needs 'prompt' or 'prompt_token_ids'"
        raise ValidationError(message, parameter="prompt", value=None)
    if text is not None and not isinstance(text, str):
        message = f"prompt must be a string, got {type(text).__name__}"
        raise ValidationError(message, parameter="prompt", value=text)
    if token_ids is not None and not _is_token_ids(token_ids):
        message = "prompt_token_ids must be a list of integers"
        raise ValidationError(message, parameter="prompt_token_ids", value=token_ids)
    if salt is not None and (not isinstance(salt, str) or not salt):
        message = f"cache_salt must be a non-empty string, got {salt!r}"
        raise ValidationError(message, parameter="cache_salt", value=salt)
    ids = None if token_ids is None else _read_token_ids(token_ids)
    return ParsedPrompt(text, ids, salt, _parse_token_types(prompt.get("token_type_ids"), ids))


def _parse_token_types(types: Any, token_ids: list[int] | None) -> list[int] | None:
    if types is None:
        return None
    if token_ids is None:
        message = "token_type_ids go with prompt_token_ids; for texts the tokenizer makes them"
        raise ValidationError(message, parameter="token_type_ids", value=types)
    if not _is_token_ids(types):
        message = "token_type_ids must be a list of integers"
        raise ValidationError(message, parameter="token_type_ids", value=types)
    return _read_token_ids(types)


def _read_token_ids(values: Iterable[Any]) -> list[int]:
    """Plain integers; whether the model has these tokens is for the engine to say."""
    token_ids = [int(token_id) for token_id in values]
    for token_id in (min(token_ids, default=0), max(token_ids, default=0)):
        if not 0 <= token_id < 2**32:
            message = f"token ids must be in [0, 2**32), got {token_id}"
            raise ValidationError(message, parameter="prompt_token_ids", value=token_id)
    return token_ids


def _is_token_ids(value: Any) -> bool:
    """Whether this is a sequence, or an array, of integers. An empty one counts."""
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        return False
    types = set(map(type, value))
    return all(issubclass(kind, Integral) and not issubclass(kind, bool) for kind in types)
