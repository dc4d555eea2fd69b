"""What the server refuses, in OpenAI's error shape, and that it lives on."""

import json
import re
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from running_server import Reply, ServerProcess

COMPLETION: dict[str, Any] = {"prompt": "Hello", "max_tokens": 4}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
LEAKS = re.compile(r"0x[0-9a-f]{6,}|/[a-z]+/[a-z]+/|site-packages|Traceback|line \d|python")


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--max-body-bytes", "1000000") as running:
        yield running


@pytest.fixture(autouse=True)
def still_answers(server: ServerProcess) -> Iterator[None]:
    """After every refusal the next request is answered."""
    yield
    assert server.ask("POST", "/v1/completions", COMPLETION).status == 200


def complete(server: ServerProcess, **fields: Any) -> Reply:
    return server.ask("POST", "/v1/completions", {**COMPLETION, **fields})


def chat(server: ServerProcess, **fields: Any) -> Reply:
    return server.ask("POST", "/v1/chat/completions", {**CHAT, **fields})


def assert_refused(reply: Reply, param: str | None, status: int = 400) -> str:
    assert reply.status == status, reply.body
    assert reply.error["type"] == "invalid_request_error"
    assert reply.error["param"] == param
    message = reply.error["message"]
    assert isinstance(message, str)
    assert message
    assert not LEAKS.search(message)
    return message


NUMBERS = [float("nan"), float("inf"), float("-inf"), "1", True, [], {}]
SAMPLING_ERRORS: list[tuple[str, Any]] = [
    *[(name, value) for name in ("temperature", "top_p", "min_p") for value in NUMBERS],
    *[(name, value) for name in ("presence_penalty", "frequency_penalty") for value in NUMBERS],
    *[("repetition_penalty", value) for value in NUMBERS],
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("top_p", 0.0),
    ("top_p", 1.1),
    ("min_p", -0.1),
    ("min_p", 1.1),
    ("top_k", -2),
    ("top_k", 1.5),
    ("presence_penalty", 2.1),
    ("frequency_penalty", -2.1),
    ("repetition_penalty", 0.0),
    ("n", 0),
    ("n", -1),
    ("n", 129),
    ("n", "2"),
    ("max_tokens", 0),
    ("max_tokens", -1),
    ("max_tokens", 1.5),
    ("min_tokens", -1),
    ("min_tokens", 5),
    ("seed", "x"),
    ("seed", 2**64),
    ("seed", -(2**63) - 1),
    ("stop", [""]),
    ("stop", ["a", "b", "c", "d", "e"]),
    ("stop", 5),
    ("stop", [5]),
    ("stop_token_ids", [10**6]),
    ("stop_token_ids", [-1]),
    ("stop_token_ids", ["a"]),
    ("logit_bias", {"10000000": 1}),
    ("logit_bias", {"a": 1}),
    ("logit_bias", {"5": "a"}),
    ("logit_bias", {"5": float("nan")}),
    ("logit_bias", {str(i): 1 for i in range(2000)}),
    ("allowed_token_ids", []),
    ("allowed_token_ids", [10**6]),
    ("bad_words", [""]),
    ("bad_words", ["w"] * 129),
    ("prompt_logprobs", -2),
    ("prompt_logprobs", 21),
    ("truncate_prompt_tokens", 0),
    ("truncate_prompt_tokens", -2),
    ("truncate_prompt_tokens", 10**9),
    ("priority", 2**31),
    ("request_id", "two words"),
    ("cache_salt", ""),
    ("stream", "yes"),
]


def named(value: Any) -> str:
    return repr(value)[:40]


@pytest.mark.parametrize(("field", "value"), SAMPLING_ERRORS, ids=named)
def test_bad_values_blame_their_field(server: ServerProcess, field: str, value: Any) -> None:
    assert_refused(complete(server, **{field: value}), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prompt", None),
        ("prompt", []),
        ("prompt", [[]]),
        ("prompt", [[1], []]),
        ("prompt", ["a", 1]),
        ("prompt", [1, "a"]),
        ("prompt", [1.5]),
        ("prompt", [True]),
        ("prompt", [-1]),
        ("prompt", [2**64]),
        ("prompt", {"text": "a"}),
        ("prompt", ["a"] * 1025),
        ("logprobs", True),
        ("logprobs", -2),
        ("logprobs", 21),
        ("suffix", "after"),
        ("best_of", 2),
        ("use_beam_search", True),
        ("use_beam_search", 0),
        ("response_format", {"type": "json_object"}),
        ("structured_outputs", {"regex": "a"}),
        ("guided_json", {}),
        ("prompt_embeds", "gASV"),
        ("logits_processors", ["os.system"]),
        ("kv_transfer_params", {"host": "example.com"}),
        ("no_such_field", 1),
        ("__class__", "x"),
    ],
    ids=named,
)
def test_bad_completion_fields(server: ServerProcess, field: str, value: Any) -> None:
    message = assert_refused(complete(server, **{field: value}), field)
    assert field in message


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("messages", []),
        ("messages", "hello"),
        ("messages", [1]),
        ("messages", [{}]),
        ("messages", [{"role": 5, "content": "a"}]),
        ("messages", [{"role": "user", "content": 5}]),
        ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]),
        ("messages", [{"role": "user", "content": [{"type": "text"}]}]),
        ("messages", [{"role": "no-such-role", "content": "a"}]),
        ("messages", [{"role": "assistant", "audio": {"id": "a"}}]),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "auto"),
        ("tool_choice", {"type": "function"}),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_schema"}),
        ("modalities", ["text", "audio"]),
        ("audio", {"voice": "a"}),
        ("logprobs", 1),
        ("top_logprobs", 2),
        ("top_logprobs", -1),
        ("reasoning_effort", "high"),
        ("chat_template", "{{ messages }}"),
        ("chat_template_kwargs", {"chat_template": "x"}),
        ("chat_template_kwargs", {"messages": []}),
        ("chat_template_kwargs", {"tokenize": True}),
        ("continue_final_message", True),
        ("suffix", "a"),
        ("prompt", "a"),
    ],
    ids=named,
)
def test_bad_chat_fields(server: ServerProcess, field: str, value: Any) -> None:
    assert_refused(chat(server, **{field: value}), field)


def test_too_many_logprobs_in_chat(server: ServerProcess) -> None:
    message = assert_refused(chat(server, logprobs=True, top_logprobs=21), "logprobs")
    assert "20" in message


def test_streams_are_refused_with_a_status_too(server: ServerProcess) -> None:
    assert_refused(complete(server, stream=True, top_p=7), "top_p")
    assert_refused(complete(server, stream=True, logprobs=21), "logprobs")
    assert_refused(chat(server, stream=True, stop_token_ids=[10**6]), "stop_token_ids")
    assert_refused(complete(server, stream=True, prompt=[10**6]), "prompt")
    assert_refused(complete(server, stream=True, prompt_logprobs=1), "prompt_logprobs")
    assert_refused(complete(server, stream_options={"include_usage": True}), "stream_options")


def test_prompts_that_do_not_fit_name_the_limit(server: ServerProcess) -> None:
    for reply in (
        complete(server, prompt=[5] * 512),
        complete(server, prompt="word " * 5000),
        complete(server, prompt=[5] * 500, max_tokens=100),
        chat(server, messages=[{"role": "user", "content": "word " * 5000}]),
    ):
        assert "512 tokens" in assert_refused(reply, "prompt")
        assert reply.error["code"] == "context_length_exceeded"


def test_prompts_times_n_is_bounded(server: ServerProcess) -> None:
    message = assert_refused(complete(server, prompt=["a"] * 100, n=100), "n")
    assert "4096" in message


def test_half_a_surrogate_pair_is_refused(server: ServerProcess) -> None:
    body = b'{"prompt": "a\\ud800b"}'
    assert_refused(server.ask("POST", "/v1/completions", body), "prompt")
    body = b'{"messages": [{"role": "user", "content": "\\udfff"}]}'
    assert_refused(server.ask("POST", "/v1/chat/completions", body), "prompt")


POSTS = ["/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize"]


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"prompt": }',
        b"nonsense",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"messages": ' + b"[" * 100_000,
        b'{"prompt": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_bodies_that_are_no_json_object(server: ServerProcess, path: str, body: bytes) -> None:
    reply = server.ask("POST", path, body)
    assert reply.status == 400
    assert not LEAKS.search(reply.error["message"])


def test_a_body_must_be_declared_as_json(server: ServerProcess) -> None:
    body = json.dumps(COMPLETION).encode()
    reply = server.ask("POST", "/v1/completions", body, **{"Content-Type": "text/plain"})
    assert "application/json" in assert_refused(reply, None)


def test_too_large_bodies_are_cut_off(server: ServerProcess) -> None:
    reply = complete(server, prompt="a" * 1_000_000)
    assert_refused(reply, None, status=413)
    many = json.dumps({"tokens": [1] * 10**6}).encode()
    assert_refused(server.ask("POST", "/detokenize", many), None, status=413)


def test_detokenize_refuses_what_is_no_token_id(server: ServerProcess) -> None:
    for tokens in ([-1], [2**40], ["a"], [1.5], "1"):
        assert server.ask("POST", "/detokenize", {"tokens": tokens}).status == 400


def test_unknown_routes_and_methods(server: ServerProcess) -> None:
    assert_refused(server.ask("GET", "/nothing"), None, status=404)
    assert_refused(server.ask("GET", "/v1/completions"), None, status=405)
    assert_refused(server.ask("POST", "/v1/models", {}), None, status=405)


def test_unknown_models(server: ServerProcess) -> None:
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", CHAT)):
        reply = server.ask("POST", path, {**body, "model": "x" * 10_000})
        assert_refused(reply, "model", status=404)
        assert len(reply.error["message"]) < 300


def test_the_official_client_reads_the_errors(server: ServerProcess) -> None:
    with pytest.raises(openai.BadRequestError, match="temperature must be in") as caught:
        server.client().completions.create(model="chat_llama", prompt="a", temperature=3)
    assert caught.value.param == "temperature"
    assert caught.value.type == "invalid_request_error"


def test_nothing_was_logged_of_what_was_asked(server: ServerProcess) -> None:
    secret = "a-very-secret-prompt"
    assert complete(server, prompt=secret).status == 200
    assert complete(server, prompt=secret, temperature=-1).status == 400
    assert secret not in "".join(server.log)
