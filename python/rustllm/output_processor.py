"""The way out: from the engine's token ids to the `RequestOutput`s users get."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeAlias, TypeVar

from rustllm._core import EngineOutput
from rustllm.completion_state import CompletionState, logprobs_by_token
from rustllm.errors import ValidationError
from rustllm.logger import logger
from rustllm.outputs import CompletionOutput, PromptLogprobs, RequestOutput, RequestStateStats
from rustllm.pooling_outputs import PoolingOutput, PoolingRequestOutput
from rustllm.pooling_processor import PoolingRequest
from rustllm.pooling_state import PoolingState
from rustllm.processor import EngineRequest
from rustllm.sampling_params import RequestOutputKind
from rustllm.tokenizer import Tokenizer

__all__ = ["AnyOutput", "AnyState", "OutputProcessor", "ProcessedOutputs", "RequestState"]

AnyOutput: TypeAlias = RequestOutput | PoolingRequestOutput[PoolingOutput]
"""What an engine's requests return, whether they generate or pool."""

Sink = TypeVar("Sink")
"""What a front end attaches to its requests, to know where their outputs go."""


class RequestState(Generic[Sink]):
    """A running request.

    Args:
        engine_id: Its name in the engine, never used before: what is still on its way for an
            earlier request of the same `request_id` cannot be taken for its own.
        request_id: Its name for the user.
        request: The request itself.
        tokenizer: `None` where there is none.
        sink: Where its outputs go.
        with_metrics: Whether outputs carry `metrics`.
    """

    def __init__(
        self,
        engine_id: str,
        request_id: str,
        request: EngineRequest,
        tokenizer: Tokenizer | None,
        sink: Sink,
        with_metrics: bool,
    ) -> None:
        params = request.params
        self.engine_id = engine_id
        self.request_id = request_id
        self.request = request
        self.sink = sink
        self._kind = params.output_kind
        self._tokenizer = tokenizer if params.detokenize else None
        self._completions = [
            CompletionState(index, self._tokenizer, request.prompt_token_ids, params)
            for index in range(params.n)
        ]
        self._prompt_logprobs: PromptLogprobs | None = None
        self._num_cached_tokens: int | None = None
        self._started = time.monotonic()
        self._stats = RequestStateStats(arrival_time=time.time(), queued_ts=self._started)
        self._with_metrics = with_metrics

    @property
    def finished(self) -> bool:
        """Whether every completion has ended."""
        return all(completion.finish_reason is not None for completion in self._completions)

    def running_in_engine(self, *, only_finished: bool) -> list[tuple[str, int]]:
        """(id in the engine, index) of completions that go on there: of all, or of those that have
        ended here, by a stop string.
        """
        return [
            (self.engine_id, completion.index)
            for completion in self._completions
            if not completion.ended_in_engine
            and (completion.finish_reason is not None or not only_finished)
        ]

    def update(self, output: EngineOutput) -> CompletionState:
        """Adds what a step produced for one completion, and returns that."""
        completion = self._completions[output.index]
        completion.update(output)
        if output.prompt_logprobs is not None:
            self._prompt_logprobs = [
                None if entries is None else logprobs_by_token(entries, self._tokenizer)
                for entries in output.prompt_logprobs
            ]
        if self._num_cached_tokens is None:
            self._num_cached_tokens = output.num_cached_tokens
        if output.token_ids:
            now = time.monotonic()
            if not self._stats.first_token_ts:
                self._stats.first_token_ts = now
                self._stats.first_token_latency = now - self._started
            self._stats.last_token_ts = now
        return completion

    def take(self, outputs: Sequence[EngineOutput]) -> tuple[RequestOutput | None, bool]:
        """The output to hand on after a step, and whether a completion ended with it.

        Args:
            outputs: What the step produced for this request.
        """
        changed = [self.update(output) for output in outputs]
        ended = any(completion.finish_reason is not None for completion in changed)
        return self.make_output(list(dict.fromkeys(changed))), ended

    def make_output(self, changed: Sequence[CompletionState]) -> RequestOutput | None:
        """The output to hand on after a step.

        Args:
            changed: The completions the step added to.

        Returns:
            `None` if the request wants no output yet.
        """
        finished = self.finished
        if self._kind is RequestOutputKind.FINAL_ONLY and not finished:
            return None
        prompt_logprobs = self._prompt_logprobs
        if self._kind is RequestOutputKind.DELTA:
            completions = [completion.take_delta() for completion in changed]
            self._prompt_logprobs = None
        else:
            completions = [completion.everything() for completion in self._completions]
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.request.prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            prompt_logprobs=prompt_logprobs,
            outputs=completions,
            finished=finished,
            metrics=self._metrics() if self._with_metrics else None,
            num_cached_tokens=self._num_cached_tokens,
        )

    def error_output(self) -> RequestOutput:
        """The last output of a request that failed."""
        completions = [
            CompletionOutput(completion.index, "", [], finish_reason="error")
            for completion in self._completions
        ]
        return RequestOutput(
            request_id=self.request_id,
            prompt=self.request.prompt,
            prompt_token_ids=self.request.prompt_token_ids,
            prompt_logprobs=None,
            outputs=completions,
            finished=True,
        )

    def _metrics(self) -> RequestStateStats:
        stats = self._stats
        return RequestStateStats(
            arrival_time=stats.arrival_time,
            queued_ts=stats.queued_ts,
            first_token_ts=stats.first_token_ts,
            last_token_ts=stats.last_token_ts,
            first_token_latency=stats.first_token_latency,
            num_generation_tokens=sum(item.num_tokens for item in self._completions),
            num_preemptions=sum(item.num_preemptions for item in self._completions),
        )


AnyState: TypeAlias = RequestState[Sink] | PoolingState[Sink]
"""A running request of either kind."""


@dataclass
class ProcessedOutputs(Generic[Sink]):
    """What a step's outputs came to."""

    outputs: list[tuple[AnyState[Sink], AnyOutput]] = field(default_factory=list)
    failures: list[tuple[AnyState[Sink], Exception]] = field(default_factory=list)
    """Requests whose outputs could not be processed; they have ended."""
    to_abort: list[tuple[str, int]] = field(default_factory=list)
    """(id in the engine, index) of completions that have ended here and not there."""


class OutputProcessor(Generic[Sink]):
    """All running requests of an engine.

    Requests are added and removed on callers' threads, while one thread processes outputs; each of
    the steps here that touch the tables is a single dict operation.
    """

    def __init__(self, tokenizer: Tokenizer | None, *, with_metrics: bool) -> None:
        self._tokenizer = tokenizer
        self._with_metrics = with_metrics
        self._states: dict[str, AnyState[Sink]] = {}
        self._engine_ids: dict[str, str] = {}
        self._counter = itertools.count()

    def __len__(self) -> int:
        return len(self._states)

    def add(
        self, request_id: str, request: EngineRequest | PoolingRequest, sink: Sink
    ) -> AnyState[Sink]:
        """Starts to expect outputs of a request, before the engine gets it.

        Raises:
            ValidationError: the id is in use.
        """
        if not isinstance(request_id, str):
            message = f"request_id must be a string, got {type(request_id).__name__}"
            raise ValidationError(message, parameter="request_id", value=request_id)
        engine_id = f"{next(self._counter)}-{request_id}"
        if self._engine_ids.setdefault(request_id, engine_id) != engine_id:
            message = f"request_id {request_id!r} is in use by a running request"
            raise ValidationError(message, parameter="request_id", value=request_id)
        state: AnyState[Sink]
        if isinstance(request, PoolingRequest):
            state = PoolingState(engine_id, request_id, request, sink)
        else:
            state = RequestState(
                engine_id, request_id, request, self._tokenizer, sink, self._with_metrics
            )
        self._states[engine_id] = state
        return state

    def remove(self, state: AnyState[Sink]) -> bool:
        """Forgets a request; false if it had ended already."""
        if self._states.pop(state.engine_id, None) is None:
            return False
        del self._engine_ids[state.request_id]
        return True

    def find(self, request_ids: Iterable[str]) -> list[AnyState[Sink]]:
        """Those of these requests that run."""
        engine_ids = (self._engine_ids.get(request_id, "") for request_id in request_ids)
        states = (self._states.get(engine_id) for engine_id in engine_ids)
        return [state for state in states if state is not None]

    def running(self) -> list[AnyState[Sink]]:
        """All requests that have not ended."""
        return list(self._states.values())

    def process(self, outputs: Sequence[EngineOutput]) -> ProcessedOutputs[Sink]:
        """Turns what the engine's steps produced into outputs of requests.

        A request whose outputs cannot be processed fails alone.
        """
        processed: ProcessedOutputs[Sink] = ProcessedOutputs()
        by_request: dict[str, list[EngineOutput]] = {}
        for output in outputs:
            by_request.setdefault(output.request_id, []).append(output)
        for engine_id, items in by_request.items():
            state = self._states.get(engine_id)
            if state is not None:
                self._process_one(state, items, processed)
        return processed

    def _process_one(
        self,
        state: AnyState[Sink],
        outputs: Sequence[EngineOutput],
        processed: ProcessedOutputs[Sink],
    ) -> None:
        for error in (output.error for output in outputs if output.error is not None):
            logger.error("request %s failed: %s", state.request_id, error)
        try:
            output, ended = state.take(outputs)
        except Exception as error:
            self.remove(state)
            processed.failures.append((state, error))
            processed.to_abort += state.running_in_engine(only_finished=False)
            return
        if ended:
            processed.to_abort += state.running_in_engine(only_finished=True)
        if state.finished:
            self.remove(state)
        if output is not None:
            processed.outputs.append((state, output))
