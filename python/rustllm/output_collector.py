"""Where a request's outputs wait for the coroutine that reads them."""

from __future__ import annotations

import asyncio
from typing import Generic, TypeVar

from rustllm.outputs import RequestOutput
from rustllm.sampling_params import RequestOutputKind

__all__ = ["OutputCollector"]

Output = TypeVar("Output")


class OutputCollector(Generic[Output]):
    """Holds at most one output: a reader that is slower than the engine gets several steps as one.

    Made, filled and read on the thread of one event loop.
    """

    def __init__(self, kind: RequestOutputKind) -> None:
        self.loop = asyncio.get_running_loop()
        self._joins = kind is RequestOutputKind.DELTA
        self._item: Output | Exception | None = None
        self._ready = asyncio.Event()

    def put(self, item: Output | Exception) -> None:
        """Adds an output, or the exception that ends the request."""
        if isinstance(self._item, RequestOutput) and isinstance(item, RequestOutput):
            self._item.add(item, aggregate=self._joins)
        elif not isinstance(self._item, Exception):
            self._item = item
        self._ready.set()

    async def get(self) -> Output:
        """Waits for the next output, or raises the exception."""
        while self._item is None:
            await self._ready.wait()
        item, self._item = self._item, None
        self._ready.clear()
        if isinstance(item, Exception):
            raise item
        return item
