"""Clients that leave, and servers that are told to stop."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from running_server import CHAT_LLAMA, TIMEOUT, ServerProcess, ServerThread, server_thread

N, MAX_TOKENS = 64, 400
LONG: dict[str, Any] = {
    "prompt": "Once",
    "n": N,
    "max_tokens": MAX_TOKENS,
    "ignore_eos": True,
    "temperature": 1.0,
    "seed": 1,
}


@pytest.fixture(scope="module")
def one_at_a_time() -> Iterator[ServerThread]:
    """One sequence runs at a time, so that LONG keeps the engine busy for a while."""
    with server_thread(max_num_seqs=1) as running:
        yield running


def until(condition: Callable[[], bool]) -> None:
    """Waits for something that must happen soon."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


@contextlib.contextmanager
def posted(address: tuple[Any, ...], path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A connection that has sent a request; closed on leaving, whatever the answer."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    with socket.create_connection(address[:2], timeout=TIMEOUT) as connection:
        connection.sendall(head.encode() + content)
        yield connection


def read_all(connection: socket.socket) -> str:
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    return received.decode()


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompts", [1, 3])
def test_a_client_that_leaves_frees_the_engine(
    one_at_a_time: ServerThread, stream: bool, prompts: int, caplog: pytest.LogCaptureFixture
) -> None:
    engine = one_at_a_time.engine
    before = engine.stats().generation_tokens
    body = {**LONG, "stream": stream, "prompt": ["Once"] * prompts}
    with posted(one_at_a_time.address, "/v1/completions", body) as connection:
        if stream:
            assert connection.recv(12) == b"HTTP/1.1 200"
        until(lambda: engine.stats().num_running > 0)
    until(lambda: engine.stats().num_running == 0 and engine.stats().num_waiting == 0)
    assert engine.num_unfinished_requests == 0
    assert engine.stats().num_free_blocks == engine.stats().num_blocks
    assert engine.stats().generation_tokens - before < N * MAX_TOKENS
    after = one_at_a_time.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 2})
    assert after.status == 200
    assert not [record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]


def test_a_chat_client_that_leaves_frees_the_engine(one_at_a_time: ServerThread) -> None:
    engine = one_at_a_time.engine
    body = {key: value for key, value in LONG.items() if key != "prompt"}
    body |= {"messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with posted(one_at_a_time.address, "/v1/chat/completions", body) as connection:
        assert connection.recv(12) == b"HTTP/1.1 200"
    until(lambda: engine.stats().num_running == 0 and engine.stats().num_waiting == 0)
    assert engine.num_unfinished_requests == 0


def test_a_failed_request_among_several_prompts_aborts_the_others(
    one_at_a_time: ServerThread,
) -> None:
    body = {**LONG, "prompt": [[5], [10**6], [6]]}
    for stream in (True, False):
        reply = one_at_a_time.ask("POST", "/v1/completions", {**body, "stream": stream})
        assert reply.status == 400
        assert one_at_a_time.engine.num_unfinished_requests == 0


def address_of(server: ServerProcess) -> tuple[str, int]:
    host, port = server.url.removeprefix("http://").split(":")
    return host, int(port)


def test_sigterm_lets_a_stream_finish_and_takes_no_more() -> None:
    body = {**LONG, "n": 8, "stream": True}
    with ServerProcess("--max-num-seqs", "1") as server:
        whole = server.ask("POST", "/v1/completions", {**body, "stream": False}).json()
        address = address_of(server)
        with posted(address, "/v1/completions", body) as connection:
            head = connection.recv(15).decode()
            server.terminate()
            until(lambda: not accepts(address))
            received = head + read_all(connection)
        assert server.stop() == 0
    texts = dict.fromkeys(range(8), "")
    for line in received.splitlines():
        if line.startswith("data: {"):
            for choice in json.loads(line.removeprefix("data: "))["choices"]:
                texts[choice["index"]] += choice["text"]
    assert received.rstrip().endswith("0") or "data: [DONE]" in received
    assert "data: [DONE]" in received
    assert texts == {choice["index"]: choice["text"] for choice in whole["choices"]}


def accepts(address: tuple[str, int]) -> bool:
    try:
        socket.create_connection(address, timeout=TIMEOUT).close()
    except OSError:
        return False
    return True


def test_after_the_shutdown_timeout_requests_are_aborted() -> None:
    with ServerProcess("--max-num-seqs", "1", "--shutdown-timeout", "0") as server:
        body = {**LONG, "stream": True}
        with posted(address_of(server), "/v1/completions", body) as connection:
            head = connection.recv(15).decode()
            server.terminate()
            received = head + read_all(connection)
        assert server.stop() == 0
    assert '"finish_reason":"abort"' in received
    assert "data: [DONE]" in received
    assert any("aborted 1 generations" in line for line in server.log)


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(second: signal.Signals) -> None:
    with ServerProcess("--max-num-seqs", "1", "--shutdown-timeout", "600") as server:
        body = {**LONG, "n": 128, "stream": True}
        with posted(address_of(server), "/v1/completions", body) as connection:
            connection.recv(15)
            server.terminate()
            until(lambda: not accepts(address_of(server)))
            server.process.send_signal(second)
            assert server.process.wait(TIMEOUT) == 1
    assert not [line for line in server.log if " ERROR " in line]


def test_an_idle_server_stops_on_interrupt() -> None:
    with ServerProcess() as server:
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(TIMEOUT) == 0


def test_a_unix_socket_is_served_taken_over_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "rustllm.sock"
    socket.socket(socket.AF_UNIX).bind(str(path))
    with ServerProcess("--uds", str(path)) as server:
        assert server.url == f"unix:{path}"
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(path))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert read_all(connection).startswith("HTTP/1.1 200")
        rival = serve("--uds", str(path))
        assert rival.returncode == 1
        assert "cannot listen" in rival.stderr
        assert server.stop() == 0
    assert not path.exists()


def serve(*flags: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "rustllm", "serve", str(CHAT_LLAMA), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


def test_a_port_in_use_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = serve("--port", str(taken.getsockname()[1]))
    assert result.returncode == 1
    assert result.stdout == ""
    assert "cannot listen on 127.0.0.1" in result.stderr
    assert "Traceback" not in result.stderr


def test_several_names_are_served() -> None:
    with ServerProcess("--served-model-name", "one", "two") as server:
        listed = server.ask("GET", "/v1/models").json()["data"]
        assert [model["id"] for model in listed] == ["one", "two"]
        body = {"prompt": "a", "max_tokens": 1}
        for asked, answered in ((None, "one"), ("one", "one"), ("two", "two")):
            reply = server.ask("POST", "/v1/completions", {**body, "model": asked})
            assert reply.json()["model"] == answered
        reply = server.ask("POST", "/v1/completions", {**body, "model": "chat_llama"})
        assert reply.status == 404
