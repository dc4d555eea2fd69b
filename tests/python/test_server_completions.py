"""`/v1/completions` through the official client, against the reference's tokens."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest
from openai import OpenAI
from running_server import CHAT_LLAMA, ServerProcess

MODEL = "chat_llama"
GREEDY: dict[str, Any] = {
    "temperature": 0,
    "extra_body": {"repetition_penalty": 1.0, "ignore_eos": True},
}
TEXT = "The quick brown fox"


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--enable-prompt-tokens-details") as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> OpenAI:
    return server.client()


def reference_prompts() -> list[dict[str, Any]]:
    prompts = json.loads((CHAT_LLAMA / "reference.json").read_text())["prompts"]
    assert isinstance(prompts, list)
    return prompts


def streamed(chunks: Any) -> tuple[dict[int, str], dict[int, str | None]]:
    """Texts and finish reasons by choice."""
    texts: dict[int, str] = {}
    reasons: dict[int, str | None] = {}
    for chunk in chunks:
        for choice in chunk.choices:
            texts[choice.index] = texts.get(choice.index, "") + choice.text
            reasons[choice.index] = choice.finish_reason
    return texts, reasons


def test_the_ready_line_names_the_model_and_the_address(server: ServerProcess) -> None:
    assert server.ready_line == f"rustllm: serving chat_llama at {server.url}\n"
    assert server.url.startswith("http://127.0.0.1:")


def test_models_are_listed_without_the_path_of_the_folder(client: OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object) == (MODEL, "model")
    card = client.models.retrieve(MODEL).model_dump()
    assert card["max_model_len"] == 512
    assert card["root"] == MODEL


def test_greedy_tokens_are_the_references(client: OpenAI) -> None:
    for prompt in reference_prompts()[:5]:
        result = client.completions.create(
            model=MODEL,
            prompt=prompt["prompt_token_ids"],
            max_tokens=64,
            temperature=0,
            logprobs=1,
            extra_body={
                "repetition_penalty": 1.0,
                "ignore_eos": True,
                "return_token_ids": True,
            },
        )
        [choice] = result.choices
        extra = choice.model_dump()
        assert extra["token_ids"] == prompt["greedy_token_ids"]
        assert extra["prompt_token_ids"] == prompt["prompt_token_ids"]
        assert choice.finish_reason == "length"
        assert choice.logprobs is not None
        assert choice.logprobs.token_logprobs == pytest.approx(prompt["greedy_logprobs"], abs=1e-4)


def test_usage_counts_prompt_completion_and_cached_tokens(client: OpenAI) -> None:
    token_ids = [5, 6, 7] * 20
    first, second = (
        client.completions.create(model=MODEL, prompt=token_ids, max_tokens=4, **GREEDY)
        for _ in range(2)
    )
    assert first.usage is not None
    assert second.usage is not None
    assert first.usage.prompt_tokens == 60
    assert first.usage.completion_tokens == 4
    assert first.usage.total_tokens == 64
    assert first.usage.prompt_tokens_details is not None
    assert first.usage.prompt_tokens_details.cached_tokens == 0
    assert second.usage.prompt_tokens_details is not None
    assert second.usage.prompt_tokens_details.cached_tokens == 48


@pytest.mark.parametrize(
    ("n", "options"),
    [
        (1, {"temperature": 0}),
        (1, {"temperature": 0.9, "seed": 7}),
        (3, {"temperature": 0.9, "seed": 7}),
    ],
)
def test_a_stream_says_what_the_whole_answer_says(
    client: OpenAI, n: int, options: dict[str, Any]
) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": TEXT, "max_tokens": 40, "n": n, **options}
    whole = client.completions.create(**request)
    texts, reasons = streamed(client.completions.create(**request, stream=True))
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert len(texts) == n


def test_seeded_choices_differ_from_each_other_and_repeat(client: OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "prompt": TEXT,
        "max_tokens": 24,
        "n": 4,
        "temperature": 1.0,
    }
    first = client.completions.create(**request, seed=1)
    again = client.completions.create(**request, seed=1)
    other = client.completions.create(**request, seed=2)
    texts = [choice.text for choice in first.choices]
    assert len(set(texts)) == 4
    assert texts == [choice.text for choice in again.choices]
    assert texts != [choice.text for choice in other.choices]


def test_stream_usage_equals_the_whole_answers(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": TEXT, "max_tokens": 12, **GREEDY}
    whole = client.completions.create(**request)
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.completions.create(**request, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage == whole.usage
    counts = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(counts) == len(chunks)
    assert counts == sorted(counts)
    assert counts[-2:] == [12, 12]


def test_usage_is_null_until_the_last_chunk(server: ServerProcess) -> None:
    body = {
        "prompt": TEXT,
        "max_tokens": 3,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    lines = server.ask("POST", "/v1/completions", body).body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["usage"]["completion_tokens"] <= 3


def test_several_prompts_are_answered_in_order(client: OpenAI) -> None:
    prompts = [prompt["prompt_token_ids"] for prompt in reference_prompts()[:4]]
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 8, **GREEDY}
    alone = [client.completions.create(prompt=p, **request).choices[0].text for p in prompts]
    together = client.completions.create(prompt=prompts, **request)
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert [choice.text for choice in together.choices] == alone
    texts, _ = streamed(client.completions.create(prompt=prompts, stream=True, **request))
    assert texts == dict(enumerate(alone))


def test_stop_string_ends_the_text_and_is_left_out(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": TEXT, "max_tokens": 40, **GREEDY}
    text = client.completions.create(**request).choices[0].text
    stop = text[10:13]
    [choice] = client.completions.create(**request, stop=[stop, "\N{SNOWMAN}"]).choices
    assert choice.text == text[: text.index(stop)]
    assert choice.finish_reason == "stop"
    assert choice.model_dump()["stop_reason"] == stop
    texts, reasons = streamed(client.completions.create(**request, stop=stop, stream=True))
    assert (texts[0], reasons[0]) == (choice.text, "stop")
    kept = {**GREEDY["extra_body"], "include_stop_str_in_output": True}
    [choice] = client.completions.create(**{**request, "extra_body": kept}, stop=stop).choices
    assert choice.text == text[: text.index(stop) + len(stop)]


def test_stop_token_ends_the_text(client: OpenAI) -> None:
    prompt = reference_prompts()[3]
    stop = prompt["greedy_token_ids"][5]
    end = prompt["greedy_token_ids"].index(stop)
    body: dict[str, Any] = {
        **GREEDY["extra_body"],
        "stop_token_ids": [stop],
        "return_token_ids": True,
    }
    [choice] = client.completions.create(
        model=MODEL,
        prompt=prompt["prompt_token_ids"],
        max_tokens=40,
        temperature=0,
        extra_body=body,
    ).choices
    extra = choice.model_dump()
    assert (choice.finish_reason, extra["stop_reason"]) == ("stop", stop)
    assert extra["token_ids"] == prompt["greedy_token_ids"][: end + 1]


def test_logprobs_offsets_and_tokens_spell_the_text(client: OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "prompt": TEXT,
        "max_tokens": 20,
        "logprobs": 3,
        **GREEDY,
    }
    [choice] = client.completions.create(**request).choices
    logprobs = choice.logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.top_logprobs is not None
    assert logprobs.token_logprobs is not None
    assert logprobs.text_offset is not None
    assert len(logprobs.tokens) == 20
    assert logprobs.text_offset[0] == 0
    for token, logprob, top in zip(
        logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert 1 <= len(top) <= 4
        assert top[token] == logprob == max(top.values())

    parts = [c.choices[0].logprobs for c in client.completions.create(**request, stream=True)]
    joined = [logprob for part in parts if part for logprob in part.token_logprobs or []]
    offsets = [offset for part in parts if part for offset in part.text_offset or []]
    assert joined == logprobs.token_logprobs
    assert len(offsets) == 20


def test_echo_returns_the_prompt_and_its_logprobs(client: OpenAI) -> None:
    prompt = reference_prompts()[4]
    body: dict[str, Any] = {**GREEDY["extra_body"], "return_tokens_as_token_ids": True}
    request: dict[str, Any] = {
        "model": MODEL,
        "prompt": prompt["prompt_token_ids"],
        "temperature": 0,
        "logprobs": 0,
        "echo": True,
        "extra_body": body,
    }
    scored = client.completions.create(**request, max_tokens=0)
    [choice] = scored.choices
    assert choice.logprobs is not None
    assert choice.logprobs.token_logprobs is not None
    assert choice.logprobs.token_logprobs[0] is None
    assert choice.logprobs.token_logprobs[1:] == pytest.approx(prompt["prompt_logprobs"], abs=1e-4)
    assert choice.logprobs.tokens == [f"token_id:{i}" for i in prompt["prompt_token_ids"]]
    assert scored.usage is not None
    assert scored.usage.completion_tokens == 0

    longer = client.completions.create(**request, max_tokens=2).choices[0]
    assert longer.logprobs is not None
    assert longer.text.startswith(choice.text)
    assert longer.logprobs.tokens[-2:] == [f"token_id:{i}" for i in prompt["greedy_token_ids"][:2]]
    texts, _ = streamed(client.completions.create(**request, max_tokens=2, stream=True))
    assert texts[0] == longer.text


def test_every_choice_of_a_stream_echoes_the_prompt(client: OpenAI) -> None:
    request: dict[str, Any] = {"model": MODEL, "prompt": TEXT, "max_tokens": 4, "n": 3}
    request |= {"echo": True, "logprobs": 1, "seed": 5, "temperature": 1.0}
    whole = client.completions.create(**request)
    texts, _ = streamed(client.completions.create(**request, stream=True))
    assert texts == {choice.index: choice.text for choice in whole.choices}
    assert all(text.startswith(TEXT) for text in texts.values())


def test_prompt_logprobs_are_given_by_token(server: ServerProcess) -> None:
    prompt = reference_prompts()[2]
    body = {"prompt": prompt["prompt_token_ids"], "max_tokens": 1, "prompt_logprobs": 0}
    [choice] = server.ask("POST", "/v1/completions", body).json()["choices"]
    first, *rest = choice["prompt_logprobs"]
    assert first is None
    found = [
        entry[str(token_id)]["logprob"]
        for token_id, entry in zip(prompt["prompt_token_ids"][1:], rest, strict=True)
    ]
    assert found == pytest.approx(prompt["prompt_logprobs"], abs=1e-4)


def test_truncate_prompt_tokens_keeps_the_end(client: OpenAI) -> None:
    prompt = reference_prompts()[4]
    options: dict[str, Any] = {**GREEDY["extra_body"], "return_token_ids": True}
    request: dict[str, Any] = {"model": MODEL, "max_tokens": 3, "temperature": 0}
    long = [9] * 30 + prompt["prompt_token_ids"]
    options["truncate_prompt_tokens"] = len(prompt["prompt_token_ids"])
    choice = client.completions.create(prompt=long, **request, extra_body=options).choices[0]
    assert choice.model_dump()["prompt_token_ids"] == prompt["prompt_token_ids"]
    assert choice.model_dump()["token_ids"] == prompt["greedy_token_ids"][:3]


def test_allowed_tokens_and_logit_bias_steer(server: ServerProcess) -> None:
    body = {
        "prompt": TEXT,
        "max_tokens": 6,
        "temperature": 1.0,
        "ignore_eos": True,
        "return_token_ids": True,
    }
    allowed = server.ask("POST", "/v1/completions", {**body, "allowed_token_ids": [40, 41]})
    assert set(allowed.json()["choices"][0]["token_ids"]) <= {40, 41}
    forced = {**body, "logit_bias": {"50": 100}, "temperature": 0, "repetition_penalty": 1.0}
    reply = server.ask("POST", "/v1/completions", forced)
    assert reply.json()["choices"][0]["token_ids"] == [50] * 6


def test_eight_clients_at_once_get_what_each_gets_alone(client: OpenAI) -> None:
    def complete(number: int) -> str:
        options: dict[str, Any] = (
            {"temperature": 0.8, "seed": number} if number % 2 else {"temperature": 0}
        )
        prompt = f"{TEXT} {'and ' * number * 4}"
        chunks = client.completions.create(
            model=MODEL, prompt=prompt, max_tokens=48, stream=True, **options
        )
        return streamed(chunks)[0].get(0, "")

    alone = [complete(number) for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            assert list(pool.map(complete, range(8))) == alone


def test_answers_carry_the_clients_request_id(server: ServerProcess) -> None:
    body = {"prompt": "a", "max_tokens": 1}
    reply = server.ask("POST", "/v1/completions", body, **{"X-Request-Id": "my-id.1"})
    assert reply.headers["x-request-id"] == "my-id.1"
    assert reply.json()["id"] == "cmpl-my-id.1"
    odd = server.ask("POST", "/v1/completions", body, **{"X-Request-Id": "<no good>"})
    assert odd.headers["x-request-id"] != "<no good>"
    named = server.ask("POST", "/v1/completions", {**body, "request_id": "from-body"})
    assert named.json()["id"] == "cmpl-from-body"


def test_the_same_request_id_may_run_twice_at_once(server: ServerProcess) -> None:
    body = {"prompt": "a", "max_tokens": 60, "ignore_eos": True}

    def complete(_: int) -> int:
        reply = server.ask("POST", "/v1/completions", body, **{"X-Request-Id": "twin"})
        return reply.status

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(complete, range(4))) == [200] * 4


def test_fields_without_effect_are_accepted(server: ServerProcess) -> None:
    body = {
        "prompt": "a",
        "max_tokens": 1,
        "user": "someone",
        "store": False,
        "metadata": {"k": "v"},
        "best_of": 1,
        "suffix": None,
        "use_beam_search": False,
        "logit_bias": None,
        "priority": 0,
        "cache_salt": "mine",
    }
    assert server.ask("POST", "/v1/completions", body).status == 200


def test_tokenize_and_detokenize_are_inverse(server: ServerProcess) -> None:
    reply = server.ask("POST", "/tokenize", {"prompt": TEXT, "return_token_strs": True}).json()
    assert reply["count"] == len(reply["tokens"])
    assert reply["max_model_len"] == 512
    assert "".join(reply["token_strs"]) == TEXT
    text = server.ask("POST", "/detokenize", {"tokens": reply["tokens"]}).json()
    assert text == {"prompt": TEXT}


def test_an_unknown_model_is_the_clients_not_found_error(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="no-such-model", prompt="a")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
