"""The way in: from a prompt of any shape to the token ids the engine takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rustllm.chat_messages import ChatTemplateContentFormat, Message, prepare_messages
from rustllm.errors import ValidationError
from rustllm.inputs import ParsedPrompt
from rustllm.model_loader import LoadedModel
from rustllm.sampling_params import RequestOutputKind, SamplingParams
from rustllm.tokenizer import Tokenizer

__all__ = ["EngineRequest", "Processor", "TokenizationKwargs"]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """A request as the engine takes it."""

    prompt: str | None
    prompt_token_ids: list[int]
    params: SamplingParams
    cache_salt: str | None


@dataclass(frozen=True, slots=True)
class TokenizationKwargs:
    """The keyword arguments vLLM passes on to the tokenizer."""

    add_special_tokens: bool = True
    truncate_prompt_tokens: int | None = None
    truncation_side: Literal["left", "right"] | None = None
    """`None` for the left of what is continued, and for the tokenizer's setting where it is not."""

    @classmethod
    def read(cls, kwargs: Mapping[str, Any] | None) -> TokenizationKwargs:
        """Reads what a user gives.

        Raises:
            ValidationError: an unknown name, or a value out of range.
        """
        for name, value in (kwargs or {}).items():
            if name not in cls.__slots__:
                message = f"tokenization_kwargs cannot hold {name!r}; it may hold "
                message += ", ".join(cls.__slots__)
                raise ValidationError(message, parameter="tokenization_kwargs", value={name: value})
        read = cls(**(kwargs or {}))
        limit = read.truncate_prompt_tokens
        if limit is not None and (not isinstance(limit, int) or limit == 0 or limit < -1):
            message = f"truncate_prompt_tokens must be -1 or at least 1, got {limit!r}"
            raise ValidationError(message, parameter="truncate_prompt_tokens", value=limit)
        if read.truncation_side not in (None, "left", "right"):
            message = f"truncation_side must be left or right, got {read.truncation_side!r}"
            raise ValidationError(message, parameter="truncation_side", value=read.truncation_side)
        return read


class Processor:
    """Turns prompts and conversations into engine requests."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    def process(
        self,
        prompts: Sequence[ParsedPrompt],
        params: Sequence[SamplingParams],
        tokenization_kwargs: Mapping[str, Any] | None = None,
        output_kind: RequestOutputKind | None = None,
    ) -> list[EngineRequest]:
        """Makes one request of each prompt and its parameters.

        Args:
            prompts: The prompts.
            params: As many sampling parameters; one object may stand for several prompts.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            output_kind: Replaces that of the parameters.

        Raises:
            ValidationError: a prompt or a parameter that cannot be used.
        """
        options = TokenizationKwargs.read(tokenization_kwargs)
        if any(prompt.token_type_ids is not None for prompt in prompts):
            message = "token_type_ids is not supported: generating models take none"
            raise ValidationError(message, parameter="token_type_ids")
        ready: dict[int, SamplingParams] = {}
        for item in params:
            if id(item) not in ready:
                ready[id(item)] = self._prepare_params(item, output_kind)
        token_ids = self._tokenize(prompts, options.add_special_tokens)
        return [
            EngineRequest(
                prompt.text,
                self._truncate(ids, options, ready[id(item)]),
                ready[id(item)],
                prompt.cache_salt,
            )
            for prompt, ids, item in zip(prompts, token_ids, params, strict=True)
        ]

    def render_chat(
        self,
        messages: Sequence[Message],
        *,
        chat_template: str | None = None,
        content_format: ChatTemplateContentFormat = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt text of a conversation; its special tokens are in it already.

        Raises:
            ValidationError: messages that are none, or that the template refuses.
        """
        return self._model.require_tokenizer().apply_chat_template(
            prepare_messages(messages, content_format),
            chat_template=chat_template or self._model.chat_template,
            tools=tools,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            **(chat_template_kwargs or {}),
        )

    def _prepare_params(
        self, params: SamplingParams, output_kind: RequestOutputKind | None
    ) -> SamplingParams:
        if not isinstance(params, SamplingParams):
            message = f"sampling_params must be SamplingParams, got {type(params).__name__}"
            raise ValidationError(message, parameter="sampling_params", value=params)
        params.verify_text_rules()
        prepared = params.clone()
        if output_kind is not None:
            prepared.output_kind = output_kind
        tokenizer = self._model.tokenizer
        if tokenizer is None:
            if params.stop or params.bad_words:
                name = "stop" if params.stop else "bad_words"
                message = f"{name} needs a tokenizer, which skip_tokenizer_init=True left out"
                raise ValidationError(message, parameter=name, value=getattr(params, name))
            prepared.detokenize = False
        elif params.bad_words:
            prepared.bad_words_token_ids = _bad_words_token_ids(tokenizer, params.bad_words)
        return prepared

    def _tokenize(
        self, prompts: Sequence[ParsedPrompt], add_special_tokens: bool
    ) -> list[list[int]]:
        texts = [prompt.text or "" for prompt in prompts if prompt.token_ids is None]
        encoded: list[list[int]] = []
        if texts:
            tokenizer = self._model.require_tokenizer()
            encoded = tokenizer.encode_batch(texts, add_special_tokens=add_special_tokens)
        rest = iter(encoded)
        return [next(rest) if prompt.token_ids is None else prompt.token_ids for prompt in prompts]

    def _truncate(
        self, token_ids: list[int], options: TokenizationKwargs, params: SamplingParams
    ) -> list[int]:
        limit = options.truncate_prompt_tokens
        if limit is None:
            return token_ids
        if limit == -1:
            limit = max(1, self._model.max_model_len - (params.max_tokens or 1))
        return token_ids[:limit] if options.truncation_side == "right" else token_ids[-limit:]


def _bad_words_token_ids(tokenizer: Tokenizer, words: Sequence[str]) -> list[list[int]]:
    """Each word at the start of a text and after a space.

    The second form is left out where it is the first behind a token for the space: there the first
    form matches.
    """
    sequences: list[list[int]] = []
    for word in words:
        bare = tokenizer.encode(word.lstrip(), add_special_tokens=False)
        spaced = tokenizer.encode(" " + word.lstrip(), add_special_tokens=False)
        if not bare:
            message = f"bad_words entries must tokenize to at least one token, {word!r} does not"
            raise ValidationError(message, parameter="bad_words", value=word)
        sequences.append(bare)
        if spaced[-len(bare) :] != bare:
            sequences.append(spaced)
    return sequences
