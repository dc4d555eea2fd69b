"""Who may ask, and how much: API keys, the size of bodies, the patience with slow senders.

The layers are plain ASGI and wrap the router, so that a new route is guarded without its author
thinking of it:

    request id ► CORS (if asked for) ► API key ► body limit ► router
"""

import asyncio
import hashlib
import hmac
import logging
import re
import secrets
import uuid
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.datastructures import Headers, MutableHeaders
from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rustllm.server.errors import HttpError, as_http_error
from rustllm.server.streaming import ClientLeftError

logger = logging.getLogger("rustllm.server")

_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_PLAIN_ID = re.compile(r"[A-Za-z0-9._:@/+=-]{1,128}")
_PUBLIC = "_rustllm_public"


def public(endpoint: _Endpoint) -> _Endpoint:
    """Marks an endpoint that answers without an API key. Everything unmarked is guarded."""
    setattr(endpoint, _PUBLIC, True)
    return endpoint


def is_public(route: BaseRoute) -> bool:
    """Whether `route` answers without an API key."""
    return getattr(getattr(route, "endpoint", None), _PUBLIC, False) is True


class RootPathMiddleware:
    """Lets requests come with or without the prefix under which a proxy serves this server."""

    def __init__(self, app: ASGIApp, root_path: str) -> None:
        self.app = app
        self._root_path = root_path.rstrip("/")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        await self.app({**scope, "root_path": self._root_path}, receive, send)


class RequestIdMiddleware:
    """Names the request, echoes the name as `X-Request-Id`, and turns what nobody caught into a
    500.

    A client's own `X-Request-Id` is kept when it is short and plain, so that it can go into logs
    and headers as it is.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _PLAIN_ID.fullmatch(given) else uuid.uuid4().hex
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["client_request_id"] = request_id if request_id == given else None
        started = False

        async def send_named(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, send_named)
        except ClientLeftError:
            logger.info("request %s: the client left", request_id)
        except Exception as error:
            problem = as_http_error(error, request_id)
            if started:
                raise
            await problem.response()(scope, receive, send_named)


class ApiKeys:
    """The keys that open the server, kept as SHA-256 digests and compared in constant time."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [hashlib.sha256(key.encode()).digest() for key in keys]
        self._salt_secret = secrets.token_bytes(32)

    def tenant(self, authorization: str | None) -> str | None:
        """Who presents this `Authorization` header: an opaque name, or `None` for a wrong or
        missing key.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return None
        presented = hashlib.sha256(token.strip().encode("utf-8", "surrogateescape")).digest()
        found: bytes | None = None
        for digest in self._digests:
            if hmac.compare_digest(digest, presented):
                found = digest
        if found is None:
            return None
        return hmac.new(self._salt_secret, found, hashlib.sha256).hexdigest()


class ApiKeyMiddleware:
    """Answers 401 to every request without a valid key, unless it is for a public route.

    Which route a request is for is asked of the routes themselves, by their own matching: no string
    of the request (`Host`, path spellings) is interpreted here, and what no public route claims is
    guarded. The holder of the key goes on as `request.state.tenant`, which keeps cached prefixes of
    different holders apart.
    """

    def __init__(self, app: ASGIApp, keys: ApiKeys, routes: Sequence[BaseRoute]) -> None:
        self.app = app
        self.keys = keys
        self.routes = routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http" or self._is_public(scope):
            await self.app(scope, receive, send)
            return
        tenant = self.keys.tenant(Headers(scope=scope).get("authorization"))
        if tenant is None:
            message = "Incorrect or missing API key: send `Authorization: Bearer <key>`."
            error = HttpError(401, message, code="invalid_api_key")
            await error.response({"WWW-Authenticate": "Bearer"})(scope, receive, send)
            return
        scope.setdefault("state", {})["tenant"] = tenant
        await self.app(scope, receive, send)

    def _is_public(self, scope: Scope) -> bool:
        for route in self.routes:
            if route.matches(scope)[0] is Match.FULL:
                return is_public(route)
        return False


class BodyLimitMiddleware:
    """Reads the body before the router sees the request, and gives up on one too large or too slow.

    Never holds more than `max_bytes`. A little more is read and thrown away, so that a client that
    sends first and reads later still gets its 413 instead of a reset connection.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self.timeout)
        except HttpError as error:
            await error.response({"Connection": "close"})(scope, receive, send)
            return
        except asyncio.TimeoutError:
            late = HttpError(408, f"The request body took longer than {self.timeout:g} seconds.")
            await late.response({"Connection": "close"})(scope, receive, send)
            return
        if body is None:
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; `None` when the client left before it was complete."""
        too_large = HttpError(413, f"The request body is larger than {self.max_bytes} bytes.")
        discard_limit = 4 * self.max_bytes
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdigit() and int(declared[:20]) > discard_limit:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            more = message.get("more_body", False)
            size += len(chunk)
            if size > self.max_bytes:
                chunks.clear()
                if size > discard_limit or not more:
                    raise too_large
            else:
                chunks.append(chunk)
        return b"".join(chunks)


def _replay(body: bytes, receive: Receive) -> Receive:
    """A `receive` that hands out `body` once, and then what comes after it."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return pending.pop() if pending else await receive()

    return replayed
