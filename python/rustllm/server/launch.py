"""From arguments to a listening server, and down again.

The address is taken first, so that a port in use is known before minutes of loading; connections
are accepted only once the model can answer. On SIGTERM or SIGINT the server stops accepting, lets
running requests finish for a while, then aborts them; a second signal ends it at once.
"""

import asyncio
import contextlib
import logging
import socket
import stat
from pathlib import Path
from types import FrameType

import uvicorn

from rustllm.async_engine import AsyncEngine
from rustllm.engine_args import EngineArgs
from rustllm.errors import RustllmError
from rustllm.server.app import build_app
from rustllm.server.http_protocol import ImpatientH11Protocol
from rustllm.server.options import Endpoint, ServerOptions
from rustllm.server.served_model import ServedModel

logger = logging.getLogger("rustllm.server")

ABORT_GRACE = 5
"""Seconds that aborted requests get to say so to their clients."""


def serve(
    engine_args: EngineArgs, names: list[str], endpoint: Endpoint, options: ServerOptions
) -> int:
    """Serves until told to stop; returns the exit status.

    Raises:
        RustllmError: the address or the certificate cannot be used, or the model cannot be loaded.
    """
    with contextlib.ExitStack() as cleanup:
        listener = cleanup.enter_context(contextlib.closing(bind(endpoint)))
        if endpoint.uds is not None:
            cleanup.callback(Path(endpoint.uds).unlink, missing_ok=True)
        engine = AsyncEngine.from_engine_args(engine_args)
        cleanup.callback(engine.shutdown)
        model = ServedModel(engine, names, log_requests=options.enable_log_requests)
        server = Server(model, build_app(model, options), endpoint)
        server.run(sockets=[listener])
    return 1 if server.force_exit else 0


def bind(endpoint: Endpoint) -> socket.socket:
    """A socket that holds the address and does not listen yet.

    Raises:
        RustllmError: the address is in use or not ours.
    """
    try:
        if endpoint.uds is not None:
            return _bind_unix(Path(endpoint.uds))
        found = socket.getaddrinfo(
            endpoint.host or None, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        family, kind, protocol, _, address = found[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except (OSError, OverflowError) as error:
        where = endpoint.uds or f"{endpoint.host}:{endpoint.port}"
        reason = getattr(error, "strerror", None) or error
        raise RustllmError(f"cannot listen on {where}: {reason}") from error
    return listener


def _bind_unix(path: Path) -> socket.socket:
    """Takes over the socket file of a server that is gone, and of no other."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        try:
            listener.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        finally:
            listener.close()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    return listener


class Server(uvicorn.Server):
    """uvicorn's server with our way of stopping and one line that says it is ready."""

    def __init__(self, model: ServedModel, app: object, endpoint: Endpoint) -> None:
        config = uvicorn.Config(
            app,  # type: ignore[arg-type]
            http=ImpatientH11Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level=endpoint.log_level,
            access_log=endpoint.access_log,
            proxy_headers=False,
            server_header=False,
            ssl_keyfile=endpoint.ssl_keyfile,
            ssl_certfile=endpoint.ssl_certfile,
            ssl_ca_certs=endpoint.ssl_ca_certs,
            ssl_cert_reqs=endpoint.ssl_cert_reqs,
            timeout_graceful_shutdown=int(endpoint.shutdown_timeout) + ABORT_GRACE,
        )
        try:
            config.load()
        except OSError as error:
            reason = error.strerror or error
            raise RustllmError(f"cannot use the TLS key or certificate: {reason}") from error
        super().__init__(config)
        self._model = model
        self._endpoint = endpoint
        self._aborting: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told_to_stop = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listens, and says where."""
        try:
            await super().startup(sockets)
        except OSError as error:
            raise RustllmError(f"cannot listen: {error.strerror}") from error
        listener = (sockets or [])[0]
        print(f"rustllm: serving {self._model.names[0]} at {self._url(listener)}", flush=True)

    async def main_loop(self) -> None:
        """Sleeps until told to stop; wakes only for uvicorn's once-a-second work."""
        self._loop = asyncio.get_running_loop()
        while not await self.on_tick(0):
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._told_to_stop.wait(), 1.0)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """First signal: stop gracefully. Any further one: at once."""
        if self.should_exit:
            self.force_exit = True
            for connection in list(self.server_state.connections):
                connection.transport.abort()
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told_to_stop.set)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for running requests, and aborts those that take too long."""
        loop = asyncio.get_running_loop()
        clock = loop.call_later(self._endpoint.shutdown_timeout, self._abort_running)
        try:
            await super().shutdown(sockets)
        finally:
            clock.cancel()

    def _abort_running(self) -> None:
        self._aborting = asyncio.ensure_future(self._abort())

    async def _abort(self) -> None:
        count = await self._model.abort_all()
        logger.warning("shutdown timeout: aborted %d generations", count)

    def _url(self, listener: socket.socket) -> str:
        if self._endpoint.uds is not None:
            return f"unix:{self._endpoint.uds}"
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"{'https' if self.config.is_ssl else 'http'}://{shown}:{port}"
