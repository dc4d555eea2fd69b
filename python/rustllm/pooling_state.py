"""A pooling request while it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic, TypeVar

import numpy as np

from rustllm._core import EngineOutput
from rustllm.pooling_outputs import PoolingOutput, PoolingRequestOutput
from rustllm.pooling_processor import PoolingRequest

__all__ = ["PoolingState"]

Sink = TypeVar("Sink")


class PoolingState(Generic[Sink]):
    """A pooling request that runs; its one output ends it.

    Args:
        engine_id: Its name in the engine, never used before.
        request_id: Its name for the user.
        request: The request itself.
        sink: Where its output goes.
    """

    def __init__(self, engine_id: str, request_id: str, request: PoolingRequest, sink: Sink):
        self.engine_id = engine_id
        self.request_id = request_id
        self.request = request
        self.sink = sink
        self.finished = False

    def running_in_engine(self, *, only_finished: bool) -> list[tuple[str, int]]:
        """(id in the engine, 0) while the engine has it."""
        return [] if self.finished or only_finished else [(self.engine_id, 0)]

    def take(
        self, outputs: Sequence[EngineOutput]
    ) -> tuple[PoolingRequestOutput[PoolingOutput], bool]:
        """What the engine made of the prompt, and that it needs no abort."""
        [output] = outputs
        self.finished = True
        if output.pooled is None:
            error = output.error or f"the request ended with {output.finish_reason}"
            return self.error_output(error), False
        ids, cached = self.request.prompt_token_ids, output.num_cached_tokens
        pooled = PoolingOutput(output.pooled)
        return PoolingRequestOutput(self.request_id, pooled, ids, cached), False

    def error_output(
        self, error: str = "the output could not be processed"
    ) -> PoolingRequestOutput[PoolingOutput]:
        """The output of a request that failed."""
        nothing = PoolingOutput(np.empty(0, np.float32))
        ids = self.request.prompt_token_ids
        return PoolingRequestOutput(self.request_id, nothing, ids, error=error)
