"""Answers that outlive one `await`: server-sent events, clients that leave, several generations
read as one.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Sequence
from contextlib import aclosing
from typing import TypeVar

from fastapi import Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rustllm.outputs import RequestOutput
from rustllm.server.errors import HttpError

T = TypeVar("T")

DONE = b"data: [DONE]\n\n"


class ClientLeftError(Exception):
    """The client closed the connection before its answer was complete."""


def event(payload: BaseModel) -> bytes:
    """One server-sent event. Fields never set are left out, fields set to `None` are `null`."""
    return b"data: " + payload.model_dump_json(exclude_unset=True).encode() + b"\n\n"


def error_event(error: HttpError) -> bytes:
    """The event that ends a stream which had already begun when something went wrong."""
    return b"data: " + json.dumps(error.body()).encode() + b"\n\n"


def json_response(payload: BaseModel) -> Response:
    """A whole answer, with the same rule about fields never set."""
    return Response(payload.model_dump_json(exclude_unset=True), media_type="application/json")


async def start_stream(request: Request, events: AsyncGenerator[bytes, None]) -> Response:
    """The streaming answer, once its first event is there; errors until then are raised as of any
    other answer.
    """
    try:
        first = await unless_client_leaves(request.receive, anext(events))
    except BaseException:
        await events.aclose()
        raise
    return EventStream(first, events)


async def unless_client_leaves(receive: Receive, work: Awaitable[T]) -> T:
    """Runs `work`, and cancels it as soon as the client closes the connection.

    Raises:
        ClientLeftError: it did.
    """
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientLeftError
    finally:
        watcher.cancel()
        if not task.done():
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


class EventStream(Response):
    """A `text/event-stream` of ready-made events; closes their source when the client leaves.

    The first event is taken before the response begins, so that a request the engine refuses still
    gets its own status.
    """

    media_type = "text/event-stream"

    def __init__(self, first: bytes, rest: AsyncGenerator[bytes, None]) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the stream."""
        await unless_client_leaves(receive, self._send(send))

    async def _send(self, send: Send) -> None:
        async with aclosing(self._rest):
            head = {"type": "http.response.start", "status": self.status_code}
            await send({**head, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            async for chunk in self._rest:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def merge(sources: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Items of all `sources` as they come, each with its source's number; the first error ends
    them all.
    """
    arrived: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue()

    async def pump(number: int, source: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(source):
                async for item in source:
                    arrived.put_nowait((number, item))
        except Exception as error:
            arrived.put_nowait(error)
        else:
            arrived.put_nowait(None)

    tasks = [asyncio.ensure_future(pump(*numbered)) for numbered in enumerate(sources)]
    running = len(tasks)
    try:
        while running:
            item = await arrived.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                running -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def final_outputs(
    sources: Sequence[AsyncGenerator[RequestOutput, None]],
) -> list[RequestOutput]:
    """The last output of each of `sources`; if one fails, the others are ended."""
    finals: dict[int, RequestOutput] = {}
    async with aclosing(merge(sources)) as outputs:
        async for number, output in outputs:
            if output.finished:
                finals[number] = output
    return [finals[number] for number in range(len(sources))]
