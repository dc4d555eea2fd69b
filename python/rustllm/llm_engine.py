"""The engine with text at its ends, driven by whoever calls `step`: vLLM's `LLMEngine`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rustllm._core import EngineStats, ModelInfo
from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.inputs import PromptType, parse_prompt
from rustllm.logger import logger
from rustllm.model_loader import LoadedModel, load_model
from rustllm.output_processor import AnyOutput, AnyState, OutputProcessor
from rustllm.pooling_params import PoolingParams
from rustllm.pooling_processor import PoolingProcessor, PoolingRequest
from rustllm.processor import EngineRequest, Processor
from rustllm.sampling_params import SamplingParams
from rustllm.submission import submit
from rustllm.tokenizer import Tokenizer

__all__ = ["LLMEngine"]


class LLMEngine:
    """Prompts in, `RequestOutput`s or `PoolingRequestOutput`s out, one step at a time.

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
        self._engine = self.model.engine
        self._outputs: OutputProcessor[None] = OutputProcessor(
            self.model.tokenizer, with_metrics=not engine_args.disable_log_stats
        )

    @classmethod
    def from_engine_args(cls, engine_args: EngineArgs) -> LLMEngine:
        """The same as the constructor."""
        return cls(engine_args)

    @property
    def model_info(self) -> ModelInfo:
        """What was loaded, and the limits that follow."""
        return self._engine.model_info

    def get_tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return self.model.require_tokenizer()

    def add_request(
        self,
        request_id: str,
        prompt: PromptType,
        params: SamplingParams | PoolingParams,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
        priority: int = 0,
    ) -> str:
        """Queues one request and returns its id.

        Args:
            request_id: Name of the request in outputs; must not be in use.
            prompt: Text or token ids.
            params: How to sample; or, with its `task`, what to make of the prompt.
            tokenization_kwargs: `add_special_tokens`, `truncate_prompt_tokens`, `truncation_side`.
            priority: Lower runs first under `scheduling_policy="priority"`.

        Raises:
            ValidationError: a prompt or parameter that cannot be used.
        """
        parsed = parse_prompt(prompt)
        request: EngineRequest | PoolingRequest
        if isinstance(params, PoolingParams):
            [request] = self.pooling_processor.process(
                [parsed], [params], params.task or "", tokenization_kwargs=tokenization_kwargs
            )
        else:
            [request] = self.processor.process([parsed], [params], tokenization_kwargs)
        self.add_requests([request_id], [request], [priority])
        return request_id

    def add_requests(
        self,
        request_ids: Sequence[str],
        requests: Sequence[EngineRequest | PoolingRequest],
        priorities: Sequence[int],
    ) -> None:
        """Queues processed requests: all of them, or none if one is refused."""
        states: list[AnyState[None]] = []
        try:
            for request_id, request in zip(request_ids, requests, strict=True):
                states.append(self._outputs.add(request_id, request, None))
            submit(self._engine, states, priorities)
        except BaseException:
            for state in states:
                self._outputs.remove(state)
            raise

    def step(self, timeout: float | None = None) -> list[AnyOutput]:
        """Waits for the engine's next outputs; returns an empty list when nothing is unfinished.

        A request whose outputs cannot be processed ends with the finish reason `error`.

        Args:
            timeout: Seconds to wait at most.

        Raises:
            EngineDeadError: the engine has stopped.
        """
        processed = self._outputs.process(self._engine.step(timeout))
        if processed.to_abort:
            self._engine.abort_sequences(processed.to_abort)
        outputs = [output for _, output in processed.outputs]
        for state, error in processed.failures:
            logger.error("request %s failed", state.request_id, exc_info=error)
            outputs.append(state.error_output())
        return outputs

    def abort_request(self, request_ids: Iterable[str]) -> None:
        """Ends requests early, without a last output. Unknown ids are ignored."""
        if isinstance(request_ids, str):
            request_ids = [request_ids]
        states = self._outputs.find(request_ids)
        for state in states:
            self._outputs.remove(state)
        self._engine.abort([state.engine_id for state in states])

    def has_unfinished_requests(self) -> bool:
        """Whether a request has outputs still to come."""
        return len(self._outputs) > 0

    def get_num_unfinished_requests(self) -> int:
        """Requests with outputs still to come."""
        return len(self._outputs)

    def stats(self) -> EngineStats:
        """Counters and gauges as of the last step."""
        return self._engine.stats()

    def reset_prefix_cache(
        self, reset_running_requests: bool = False, reset_connector: bool = False
    ) -> bool:
        """Forgets cached prefixes; false (and nothing done) while requests run."""
        for name, value in (
            ("reset_running_requests", reset_running_requests),
            ("reset_connector", reset_connector),
        ):
            if value:
                raise ValidationError(f"{name}=True is not supported", parameter=name, value=value)
        return self._engine.reset_prefix_cache()
