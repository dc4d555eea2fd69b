"""The way in for prompts that are pooled: token ids, segments, and the engine's parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rustllm._core import PoolingParams as EnginePoolingParams
from rustllm.encoding import Encoding, TextEncoder, TextPair, num_token_types
from rustllm.errors import ValidationError
from rustllm.inputs import ParsedPrompt
from rustllm.model_loader import LoadedModel
from rustllm.pooling_params import PoolingParams, check_pooling_task
from rustllm.processor import TokenizationKwargs
from rustllm.prompt_templates import PromptTemplates

__all__ = ["PoolingProcessor", "PoolingRequest"]

_HEADS = {
    "embed": ("Embedding", "embed"),
    "token_embed": ("Embedding", "embed"),
    "classify": ("Classification", "classify"),
    "token_classify": ("Classification", "classify"),
}


@dataclass(frozen=True, slots=True)
class PoolingRequest:
    """A pooling request as the engine takes it."""

    prompt_token_ids: list[int]
    token_type_ids: list[int] | None
    params: EnginePoolingParams
    cache_salt: str | None = None


class PoolingProcessor:
    """Turns prompts, and pairs of texts, into pooling requests."""

    def __init__(self, model: LoadedModel) -> None:
        self._model = model

    @cached_property
    def templates(self) -> PromptTemplates:
        """The model's prompts."""
        return PromptTemplates.from_folder(self._model.folder)

    @cached_property
    def _encoder(self) -> TextEncoder:
        types = num_token_types(self._model.config())
        return TextEncoder(self._model.require_tokenizer(), num_token_types=types)

    def check_task(self, task: str, *, method: str) -> None:
        """Sees whether the model can do this.

        Args:
            task: The pooling task.
            method: Who asks, for the message.

        Raises:
            ValidationError: it cannot; the message says what would help.
        """
        check_pooling_task(task)
        supported = self._model.engine.model_info.supported_tasks
        if not self._model.is_pooling:
            message = (
                f"{method} is only supported for pooling models. Try passing `--runner pooling` "
                'to use the model as a pooling model (in Python: runner="pooling").'
            )
            raise ValidationError(message, parameter="task", value=task)
        if task not in supported:
            name, head = _HEADS[task]
            message = (
                f"{name} API is not supported by this model. Try converting the model using "
                f"`--convert {head}`. Task {task!r} is not among its tasks: {', '.join(supported)}"
            )
            raise ValidationError(message, parameter="task", value=task)

    def process(
        self,
        prompts: Sequence[ParsedPrompt],
        params: Sequence[PoolingParams],
        task: str,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        prefix: str = "",
    ) -> list[PoolingRequest]:
        """Makes one request of each prompt and its parameters.

        Args:
            prompts: The prompts.
            params: As many parameters.
            task: What is to be done.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            prefix: What is put before prompts that are texts.

        Raises:
            ValidationError: a prompt or a parameter that cannot be used.
        """
        options = TokenizationKwargs.read(tokenization_kwargs)
        texts = [
            self.templates.apply(prompt.text or "", prefix)
            for prompt in prompts
            if prompt.token_ids is None
        ]
        encoded = iter(self._encode(texts, options))
        ready = [item.for_engine(task) for item in params]
        return [
            self._of_ids(prompt, options, item)
            if prompt.token_ids is not None
            else _of_encoding(next(encoded), item, prompt.cache_salt)
            for prompt, item in zip(prompts, ready, strict=True)
        ]

    def process_pairs(
        self,
        pairs: Sequence[TextPair],
        params: PoolingParams,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[PoolingRequest]:
        """Makes one request of each pair of texts, for a model that reads both at once.

        Raises:
            ValidationError: a text or a parameter that cannot be used.
        """
        options = TokenizationKwargs.read(tokenization_kwargs)
        lower = self.templates
        written = [TextPair(*(lower.apply(text, "") for text in pair)) for pair in pairs]
        ready = params.for_engine("classify")
        return [_of_encoding(item, ready) for item in self._encode(written, options)]

    def _encode(
        self, texts: Sequence[str | TextPair], options: TokenizationKwargs
    ) -> list[Encoding]:
        if not texts:
            return []
        return self._encoder.encode(
            texts,
            add_special_tokens=options.add_special_tokens,
            max_length=self._limit(options),
            truncation_side=options.truncation_side,
        )

    def _of_ids(
        self, prompt: ParsedPrompt, options: TokenizationKwargs, params: EnginePoolingParams
    ) -> PoolingRequest:
        ids, types = prompt.token_ids or [], prompt.token_type_ids
        limit = self._limit(options)
        if limit is not None and len(ids) > limit:
            kept = slice(-limit, None) if options.truncation_side == "left" else slice(limit)
            ids, types = ids[kept], None if types is None else types[kept]
        return PoolingRequest(ids, types, params, prompt.cache_salt)

    def _limit(self, options: TokenizationKwargs) -> int | None:
        limit, longest = options.truncate_prompt_tokens, self._model.max_model_len
        if limit is not None and limit > longest:
            message = (
                f"truncate_prompt_tokens value ({limit}) is greater than max_model_len "
                f"({longest}). Please, select a smaller truncation size."
            )
            raise ValidationError(message, parameter="truncate_prompt_tokens", value=limit)
        return longest if limit == -1 else limit


def _of_encoding(
    encoding: Encoding, params: EnginePoolingParams, cache_salt: str | None = None
) -> PoolingRequest:
    return PoolingRequest(encoding.ids, encoding.token_type_ids, params, cache_salt)
