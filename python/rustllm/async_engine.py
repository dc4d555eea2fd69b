"""`AsyncEngine`: the engine for servers, vLLM's `AsyncLLM`.

One thread steps the engine, event loops wait:

    event loop                              step thread               engine thread (Rust)
    generate() ── add_request ──────────────────────────────────────► queue
        ▲                                   step() ◄───────────────── outputs of a step
        └── one call_soon_threadsafe ◄───── detokenize, stop strings
            a step, for all requests

Nothing here blocks the event loop: long prompts are tokenized on a thread of their own.
"""

from __future__ import annotations

import asyncio
import functools
import weakref
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from rustllm._core import EngineStats, ModelInfo
from rustllm.engine_args import EngineArgs
from rustllm.errors import EngineDeadError
from rustllm.inputs import ParsedPrompt, PromptType, parse_prompt
from rustllm.model_loader import LoadedModel, load_model
from rustllm.output_collector import OutputCollector
from rustllm.outputs import RequestOutput
from rustllm.pooling_outputs import PoolingOutput, PoolingRequestOutput
from rustllm.pooling_params import PoolingParams
from rustllm.pooling_processor import PoolingProcessor, PoolingRequest
from rustllm.processor import EngineRequest, Processor
from rustllm.sampling_params import RequestOutputKind, SamplingParams
from rustllm.step_thread import StepThread
from rustllm.tokenizer import Tokenizer

__all__ = ["AsyncEngine"]

T = TypeVar("T")

_LONG_TEXT = 16_384
"""Characters from which a prompt is tokenized off the event loop."""


class AsyncEngine:
    """Generates, or pools, for many coroutines at once.

    >>> engine = AsyncEngine(EngineArgs())
    >>> async for output in engine.generate("def fibonacci(n):", SamplingParams(), "request-1"):
    ...     print(output.outputs[0].text)

    Args:
        engine_args: What to start the engine with.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an argument out of range.
    """

    def __init__(self, engine_args: EngineArgs) -> None:
        self.model: LoadedModel = load_model(engine_args)
        self.processor = Processor(self.model)
        self.pooling_processor = PoolingProcessor(self.model)
        self._steps = StepThread(
            self.model.engine,
            self.model.tokenizer,
            with_metrics=not engine_args.disable_log_stats,
        )
        self._finalizer = weakref.finalize(self, self._steps.stop)

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> AsyncEngine:
        """The same as the constructor."""
        return cls(engine_args)

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion, in tokens."""
        return self.model.max_model_len

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded, and the limits that follow."""
        return self.model.engine.model_info

    @property
    def default_sampling_fields(self) -> dict[str, Any]:
        """What the model's `generation_config.json` sets, by the names of `SamplingParams`."""
        return dict(self.model.default_sampling_fields)

    def get_default_sampling_params(self) -> SamplingParams:
        """Sampling parameters for requests that bring none."""
        return self.model.default_sampling_params()

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.require_tokenizer()

    async def generate(
        self,
        prompt: PromptType,
        sampling_params: SamplingParams,
        request_id: str,
        *,
        prompt_text: str | None = None,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[RequestOutput, None]:
        """Generates for one prompt; leaving the generator early aborts the request.

        Args:
            prompt: Text or token ids.
            sampling_params: How to sample; `output_kind` says what each output holds.
            request_id: Name of the request in outputs; must not be in use.
            prompt_text: The text of a prompt given as token ids, for the outputs.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            priority: Lower runs first under `scheduling_policy="priority"`.

        Yields:
            Outputs as they come, the last of them with `finished` set.

        Raises:
            ValidationError: a prompt or parameter that cannot be used.
            EngineDeadError: the engine has stopped.
        """
        parsed = parse_prompt(prompt)
        if prompt_text is not None and parsed.text is None:
            parsed = ParsedPrompt(prompt_text, parsed.token_ids, parsed.cache_salt)
        request = await self._process(parsed, sampling_params, tokenization_kwargs)
        collector: OutputCollector[RequestOutput] = OutputCollector(request.params.output_kind)
        [state] = self._steps.add([(request_id, request, collector)], priority)
        try:
            while True:
                output = await collector.get()
                yield output
                if output.finished:
                    return
        finally:
            self._steps.drop(state)

    async def encode(
        self,
        prompt: PromptType,
        pooling_params: PoolingParams,
        request_id: str,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> AsyncGenerator[PoolingRequestOutput[PoolingOutput], None]:
        """Pools one prompt; leaving the generator early aborts the request.

        Args:
            prompt: Text or token ids.
            pooling_params: What to make of it; its `task` must be set.
            request_id: Name of the request in outputs; must not be in use.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            priority: Lower runs first under `scheduling_policy="priority"`.

        Yields:
            The one output.

        Raises:
            ValidationError: a prompt or parameter that cannot be used.
            EngineDeadError: the engine has stopped.
        """
        task = pooling_params.task or ""
        self.pooling_processor.check_task(task, method="AsyncEngine.encode()")
        prefix = self.pooling_processor.templates.prefix() if "embed" in task else ""
        parsed = parse_prompt(prompt)
        requests = await _beside(
            parsed,
            functools.partial(
                self.pooling_processor.process,
                [parsed],
                [pooling_params],
                task,
                tokenization_kwargs=tokenization_kwargs,
                prefix=prefix,
            ),
        )
        [output] = await self.pool(requests, [request_id], priority=priority)
        yield output

    async def pool(
        self, requests: Sequence[PoolingRequest], request_ids: Sequence[str], *, priority: int = 0
    ) -> list[PoolingRequestOutput[PoolingOutput]]:
        """Runs processed pooling requests, all or none; cancelling it aborts them.

        Raises:
            ValidationError: a request that cannot be used.
            EngineDeadError: the engine has stopped.
        """
        collectors: list[OutputCollector[PoolingRequestOutput[PoolingOutput]]] = [
            OutputCollector(RequestOutputKind.FINAL_ONLY) for _ in requests
        ]
        states = self._steps.add(
            list(zip(request_ids, requests, collectors, strict=True)), priority
        )
        try:
            return [await collector.get() for collector in collectors]
        finally:
            self._steps.drop(*states)

    async def abort(self, request_id: str | Iterable[str]) -> None:
        """Ends requests early: their last output says `abort`. Unknown ids are ignored."""
        self._steps.abort([request_id] if isinstance(request_id, str) else request_id)

    async def check_health(self) -> None:
        """Does nothing while the engine is well.

        Raises:
            EngineDeadError: it is not.
        """
        self._steps.check()

    async def reset_prefix_cache(self) -> bool:
        """Forgets cached prefixes; false (and nothing done) while requests run."""
        return self.model.engine.reset_prefix_cache()

    @property
    def is_running(self) -> bool:
        """Whether the engine takes requests."""
        return self._steps.is_running

    @property
    def is_stopped(self) -> bool:
        """Whether it does not any more."""
        return not self.is_running

    @property
    def errored(self) -> bool:
        """Whether it stopped because of an error."""
        return self._steps.error is not None

    @property
    def dead_error(self) -> EngineDeadError:
        """What is raised to those who wait for a stopped engine."""
        return self._steps.dead_error()

    @property
    def num_unfinished_requests(self) -> int:
        """Requests with outputs still to come."""
        return self._steps.num_requests

    def stats(self) -> EngineStats:
        """Counters and gauges as of the last step."""
        return self.model.engine.stats()

    def shutdown(self) -> None:
        """Stops the engine; requests that run end with `EngineDeadError`. Idempotent."""
        self._finalizer()

    async def _process(
        self,
        prompt: ParsedPrompt,
        params: SamplingParams,
        tokenization_kwargs: Mapping[str, Any] | None,
    ) -> EngineRequest:
        process = functools.partial(self.processor.process, [prompt], [params], tokenization_kwargs)
        [request] = await _beside(prompt, process)
        return request


async def _beside(prompt: ParsedPrompt, process: Callable[[], T]) -> T:
    """Runs `process` here, or on a thread where the prompt is a long text."""
    if prompt.text is not None and len(prompt.text) > _LONG_TEXT:
        return await asyncio.to_thread(process)
    return process()
