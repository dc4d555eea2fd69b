"""Servers for tests: `rustllm serve` as a process, and in a thread with its engine in reach."""

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from openai import OpenAI

from rustllm.async_engine import AsyncEngine
from rustllm.engine_args import EngineArgs
from rustllm.server.app import build_app
from rustllm.server.launch import Server, bind
from rustllm.server.options import Endpoint, ServerOptions
from rustllm.server.served_model import ServedModel

GOLDENS = Path(__file__).parent.parent / "goldens"
CHAT_LLAMA = GOLDENS / "chat_llama"
TIMEOUT = 120.0
"""Seconds after which a test gives up; nothing should come near it."""


class Reply:
    """What a server answered."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        error = self.json()["error"]
        assert isinstance(error, dict)
        assert error.keys() == {"message", "type", "param", "code"}
        return error


def ask(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One request; `body` is sent as JSON unless it is bytes already."""
    sent = dict(headers or {})
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
        body = body if isinstance(body, bytes) else json.dumps(body)
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=TIMEOUT)
    with contextlib.closing(connection):
        connection.request(method, path, body, sent)
        response = connection.getresponse()
        return Reply(response.status, dict(response.getheaders()), response.read())


class ServerProcess:
    """`rustllm serve` as users start it, on a free port."""

    def __init__(self, *flags: str, model: Path | str = CHAT_LLAMA) -> None:
        command = [sys.executable, "-m", "rustllm", "serve", str(model), "--port", "0", *flags]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=_environment()
        )
        self.log: list[str] = []
        self._told_to_stop = False
        self._reader = threading.Thread(target=self._read_log, daemon=True)
        self._reader.start()
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline()
        if not self.ready_line:
            self.stop()
            raise RuntimeError(f"the server did not start: {''.join(self.log)}")
        self.url = self.ready_line.split()[-1]

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        self.log.extend(self.process.stderr)

    def client(self, api_key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=api_key, max_retries=0, timeout=TIMEOUT)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        return ask(self.url, method, path, body, headers)

    def terminate(self) -> None:
        self._told_to_stop = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ends the server and returns its exit status."""
        if not self._told_to_stop and self.process.poll() is None:
            self.terminate()
        try:
            status = self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
        self._reader.join(TIMEOUT)
        return status

    def __enter__(self) -> "ServerProcess":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class ServerThread:
    """The same server in this process, whose engine's counters tests can read."""

    def __init__(self, options: ServerOptions | None = None, **engine: Any) -> None:
        args = {"model": str(CHAT_LLAMA), **engine}
        self.engine = AsyncEngine.from_engine_args(EngineArgs(**args))
        self.model = ServedModel(self.engine, ["chat_llama"])
        self.app = build_app(self.model, options or ServerOptions())
        endpoint = Endpoint(port=0, access_log=False)
        self._listener = bind(endpoint)
        self._listener.listen()
        self.address = self._listener.getsockname()
        self.url = f"http://127.0.0.1:{self.address[1]}"
        self._server = Server(self.model, self.app, endpoint)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}
        )
        self._thread.start()

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        return ask(self.url, method, path, body, headers)

    def stop(self) -> None:
        self._server.handle_exit(signal.SIGTERM, None)
        self._thread.join(TIMEOUT)
        self.engine.shutdown()


@contextlib.contextmanager
def server_thread(options: ServerOptions | None = None, **engine: Any) -> Iterator[ServerThread]:
    server = ServerThread(options, **engine)
    try:
        yield server
    finally:
        server.stop()


def _environment() -> dict[str, str]:
    return {**os.environ, "HF_HUB_OFFLINE": "1"}
