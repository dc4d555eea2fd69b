"""Who may ask: keys, hosts, origins, and clients that do not behave."""

import contextlib
import socket
import urllib.parse
from collections.abc import Iterator
from typing import Any

import pytest
from running_server import ServerThread, server_thread
from starlette.routing import Route

from rustllm.server import http_protocol
from rustllm.server.options import ServerOptions

KEY, OTHER_KEY = "first-key", "second-key"
PUBLIC = {"/health", "/ping", "/version"}
COMPLETION: dict[str, Any] = {"prompt": [5, 6, 7, 8] * 12, "max_tokens": 2}


@pytest.fixture(scope="module")
def server() -> Iterator[ServerThread]:
    options = ServerOptions(
        api_keys=[KEY, OTHER_KEY],
        allowed_origins=["https://good.example"],
        enable_prompt_tokens_details=True,
    )
    with server_thread(options) as running:
        yield running


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def raw(server: ServerThread, request: bytes) -> bytes:
    """Sends bytes as they are and returns all that comes back."""
    with socket.create_connection(server.address[:2], timeout=60) as connection:
        connection.sendall(request)
        received = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(65536):
                received += chunk
        return received


def test_every_route_but_three_needs_a_key(server: ServerThread) -> None:
    seen = set()
    for route in server.app.routes:
        assert isinstance(route, Route)
        for method in route.methods or ():
            seen.add(route.path)
            path = route.path.replace("{model_id:path}", "chat_llama")
            body: dict[str, Any] | None = {} if method == "POST" else None
            without = server.ask(method, path, body)
            wrong = server.ask(method, path, body, **bearer("wrong"))
            right = server.ask(method, path, body, **bearer(KEY))
            assert right.status != 401
            if route.path in PUBLIC:
                assert without.status == wrong.status == 200
            else:
                assert without.status == wrong.status == 401
                if method != "HEAD":
                    assert without.error["code"] == "invalid_api_key"
    assert seen > PUBLIC | {"/v1/models", "/v1/completions", "/v1/chat/completions"}
    assert "/openapi.json" in seen
    described = server.ask("GET", "/openapi.json", **bearer(KEY)).json()["paths"]
    assert "/v1/chat/completions" in described


@pytest.mark.parametrize(
    "authorization",
    ["", KEY, "Basic " + KEY, "Bearer", "Bearer ", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}"],
)
def test_only_the_whole_key_as_a_bearer_token_opens(
    server: ServerThread, authorization: str
) -> None:
    reply = server.ask("GET", "/v1/models", Authorization=authorization)
    assert reply.status == 401
    assert {k.lower(): v for k, v in reply.headers.items()}["www-authenticate"] == "Bearer"


def test_each_key_opens(server: ServerThread) -> None:
    for key in (KEY, OTHER_KEY):
        assert server.ask("GET", "/v1/models", **bearer(key)).status == 200
    assert server.ask("GET", "/v1/models", Authorization=f"bearer {KEY}").status == 200


@pytest.mark.parametrize(
    "target",
    [
        "/v1/models",
        "//v1/models",
        "/health/../v1/models",
        "/health/%2e%2e/v1/models",
        "/v1/models;/health",
        "/v1/models?/health",
        "/v1/models#/health",
        "/%76%31/models",
        "/v1/models/",
        "/health/",
        "//health",
        "/HEALTH",
        "http://127.0.0.1/v1/models",
    ],
)
@pytest.mark.parametrize(
    "host", ["localhost", "a/health", "a/health?x", "a#/health", "a@b/version"]
)
def test_spellings_of_paths_and_hosts_do_not_get_around_the_key(
    server: ServerThread, target: str, host: str
) -> None:
    request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
    status = int(raw(server, request.encode()).split()[1])
    assert status in (400, 401)


def test_a_websocket_upgrade_does_not_get_around_the_key(server: ServerThread) -> None:
    request = (
        b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Key: eA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert raw(server, request).split()[1] in (b"400", b"401")


def test_keys_do_not_share_cached_prefixes(server: ServerThread) -> None:
    """Or the time and the usage of an answer would tell what others have asked."""

    def cached(key: str, **fields: Any) -> int:
        reply = server.ask("POST", "/v1/completions", {**COMPLETION, **fields}, **bearer(key))
        count = reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"]
        assert isinstance(count, int)
        return count

    assert cached(KEY) == 0
    assert cached(KEY) == 32
    assert cached(OTHER_KEY) == 0
    assert cached(KEY, cache_salt="apart") == 0
    assert cached(KEY, cache_salt="apart") == 32


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": [5, 6, 7, 8] * 12}),
        ("/score", {"text_1": "import os\n" * 20, "text_2": "import sys\n" * 20}),
    ],
)
def test_keys_do_not_share_cached_prefixes_of_pooled_prompts(
    path: str, body: dict[str, Any]
) -> None:
    options = ServerOptions(api_keys=[KEY, OTHER_KEY])
    with server_thread(options, runner="pooling") as server:

        def cached(key: str, **fields: Any) -> int:
            before = server.engine.model.engine.stats().prefix_cache_hits
            reply = server.ask("POST", path, {**body, **fields}, **bearer(key))
            assert reply.status == 200, reply.body
            return server.engine.model.engine.stats().prefix_cache_hits - before

        assert cached(KEY) == 0
        assert cached(KEY) > 0
        assert cached(OTHER_KEY) == 0
        assert cached(KEY, cache_salt="apart") == 0
        assert cached(KEY, cache_salt="apart") > 0


def test_origins_are_answered_by_name_only(server: ServerThread) -> None:
    def allowed(origin: str) -> str | None:
        reply = server.ask("GET", "/health", Origin=origin)
        return {k.lower(): v for k, v in reply.headers.items()}.get("access-control-allow-origin")

    assert allowed("https://good.example") == "https://good.example"
    assert allowed("https://evil.example") is None


def test_no_origin_is_allowed_by_default() -> None:
    with server_thread() as server:
        reply = server.ask("GET", "/health", Origin="https://any.example")
        assert not [name for name in reply.headers if name.lower().startswith("access-control")]
        assert server.ask("GET", "/v1/models").status == 200


def test_it_listens_on_loopback_alone(server: ServerThread) -> None:
    assert server.address[0] == "127.0.0.1"


def test_endless_headers_are_refused(server: ServerThread) -> None:
    head = b"GET /health HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 1_000_000
    assert raw(server, head + b"\r\n\r\n").split()[1] == b"400"


def test_a_body_larger_than_declared_limits_is_refused_unread() -> None:
    with server_thread(ServerOptions(max_body_bytes=1000)) as server:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        declared = head + b"Content-Length: 99999999999999999999\r\n\r\n"
        assert raw(server, declared).split()[1] == b"413"
        chunk = b"400\r\n" + b" " * 1024 + b"\r\n"
        chunked = head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 3
        assert raw(server, chunked + b"0\r\n\r\n").split()[1] == b"413"


def test_slow_clients_are_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_TIMEOUT", 0.2)
    with server_thread(ServerOptions(body_timeout=0.2)) as server:
        assert raw(server, b"") == b""
        assert raw(server, b"GET /health HTTP/1.1\r\nHost:") == b""
        head = b"POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n{"
        assert raw(server, head).split()[1] == b"408"


def test_two_requests_on_one_connection_are_both_answered(server: ServerThread) -> None:
    request = b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert raw(server, request + last).count(b"HTTP/1.1 200") == 2


def test_root_path_is_accepted_with_and_without_the_prefix() -> None:
    with server_thread(ServerOptions(root_path="/llm", api_keys=[KEY])) as server:
        for path in ("/v1/models", "/llm/v1/models"):
            assert server.ask("GET", path).status == 401
            assert server.ask("GET", path, **bearer(KEY)).status == 200
        assert server.ask("GET", "/llm/health").status == 200
        quoted = urllib.parse.quote("/llm/v1/models", safe="/").replace("v", "%76")
        assert server.ask("GET", quoted).status == 401
