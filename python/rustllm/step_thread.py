"""The thread that steps an engine and hands outputs to the event loops that wait for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from rustllm._core import Engine
from rustllm.errors import EngineDeadError
from rustllm.logger import logger
from rustllm.output_collector import OutputCollector
from rustllm.output_processor import AnyOutput, AnyState, OutputProcessor
from rustllm.pooling_processor import PoolingRequest
from rustllm.processor import EngineRequest
from rustllm.submission import submit
from rustllm.tokenizer import Tokenizer

__all__ = ["StepThread"]

_STEP_SECONDS = 1.0
"""Longest wait in a step, after which the thread looks whether it is to stop."""

State = AnyState[OutputCollector[Any]]
Item = AnyOutput | Exception
Request = EngineRequest | PoolingRequest


class StepThread:
    """Runs `engine.step` while there are requests, and sleeps while there are none.

    The thread holds no reference to the `AsyncEngine`, so that an engine nobody uses can be
    collected.
    """

    def __init__(self, engine: Engine, tokenizer: Tokenizer | None, *, with_metrics: bool) -> None:
        self.error: BaseException | None = None
        self._engine = engine
        self._outputs: OutputProcessor[OutputCollector[Any]] = OutputProcessor(
            tokenizer, with_metrics=with_metrics
        )
        self._wake = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="rustllm-step", daemon=True)
        self._thread.start()

    @property
    def is_running(self) -> bool:
        """Whether requests are taken."""
        return self.error is None and not self._stopping

    @property
    def num_requests(self) -> int:
        """Requests that run."""
        return len(self._outputs)

    def check(self) -> None:
        """Raises `EngineDeadError` unless requests are taken."""
        if not self.is_running:
            raise self.dead_error()
        self._engine.check_health()

    def dead_error(self) -> EngineDeadError:
        """The error for those who want something of a stopped engine."""
        if isinstance(self.error, EngineDeadError):
            return EngineDeadError(*self.error.args)
        if self.error is not None:
            return EngineDeadError(f"the engine has stopped: {self.error!r}")
        return EngineDeadError("the engine has been shut down")

    def add(
        self, requests: Sequence[tuple[str, Request, OutputCollector[Any]]], priority: int
    ) -> list[State]:
        """Starts requests of one kind, all or none: their ids, and where their outputs go."""
        self.check()
        states: list[State] = []
        try:
            for request_id, request, collector in requests:
                states.append(self._outputs.add(request_id, request, collector))
            submit(self._engine, states, [priority] * len(states))
            self._wake.set()
            self.check()  # it may have stopped in between, and have missed these
        except BaseException:
            for state in states:
                self._outputs.remove(state)
            raise
        return states

    def drop(self, *states: State) -> None:
        """Ends requests nobody waits for any more, those that have not ended."""
        self._abort([state for state in states if self._outputs.remove(state)])

    def abort(self, request_ids: Iterable[str]) -> None:
        """Ends requests early; their last output says so."""
        self._abort(self._outputs.find(request_ids))

    def stop(self) -> None:
        """Stops engine and thread, and fails what still runs."""
        self._stopping = True
        self._wake.set()
        self._engine.shutdown()
        if threading.current_thread() is not self._thread:  # the collector runs on any thread
            self._thread.join()
        self._fail_all()

    def _abort(self, states: Sequence[State]) -> None:
        if states and self.is_running:
            self._engine.abort([state.engine_id for state in states])

    def _run(self) -> None:
        try:
            while not self._stopping:
                if self._engine.has_unfinished():
                    self._step()
                else:
                    self._wake.wait()
                    self._wake.clear()
        except BaseException as error:
            if not self._stopping:
                logger.exception("the engine has stopped")
                self.error = error
                self._fail_all()

    def _step(self) -> None:
        processed = self._outputs.process(self._engine.step(_STEP_SECONDS))
        if processed.to_abort:
            self._engine.abort_sequences(processed.to_abort)
        items: list[tuple[OutputCollector[Any], Item]] = [
            (state.sink, output) for state, output in processed.outputs
        ]
        items += [(state.sink, error) for state, error in processed.failures]
        for loop in _deliver(items):
            gone = [state for state in self._outputs.running() if state.sink.loop is loop]
            self.drop(*gone)

    def _fail_all(self) -> None:
        states = self._outputs.running()
        for state in states:
            self._outputs.remove(state)
        _deliver([(state.sink, self.dead_error()) for state in states])


def _deliver(items: Iterable[tuple[OutputCollector[Any], Item]]) -> list[asyncio.AbstractEventLoop]:
    """Hands items over, with one call for each event loop; returns the loops that are closed."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[OutputCollector[Any], Item]]] = {}
    for collector, item in items:
        by_loop.setdefault(collector.loop, []).append((collector, item))
    closed = []
    for loop, batch in by_loop.items():
        try:
            loop.call_soon_threadsafe(_put_all, batch)
        except RuntimeError:  # raised for a closed loop: nobody waits there
            closed.append(loop)
    return closed


def _put_all(batch: Iterable[tuple[OutputCollector[Any], Item]]) -> None:
    for collector, item in batch:
        collector.put(item)
