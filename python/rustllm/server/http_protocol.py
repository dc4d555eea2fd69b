"""HTTP/1.1 with patience that ends: a client must send its request's head in time."""

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_TIMEOUT = 10.0
"""Seconds from the first byte, or from connecting, to the end of the request's head."""


class ImpatientH11Protocol(H11Protocol):
    """uvicorn's protocol, with a clock that runs whenever a request is awaited.

    uvicorn's own keep-alive clock stops at the first byte, so that a client sending a byte now and
    then would hold its connection for ever.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Starts the clock."""
        super().connection_made(transport)  # type: ignore[arg-type]
        self._head_clock = self.loop.call_later(HEAD_TIMEOUT, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Stops the clock once the head is complete, starts it at the first byte of a next
        request.
        """
        super().data_received(data)
        if not self._awaits_request():
            self._stop_clock()
        elif self._head_clock is None:
            self._head_clock = self.loop.call_later(HEAD_TIMEOUT, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the clock."""
        self._stop_clock()
        super().connection_lost(exc)

    def _awaits_request(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _stop_clock(self) -> None:
        if self._head_clock is not None:
            self._head_clock.cancel()
            self._head_clock = None
