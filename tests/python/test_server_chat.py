"""`/v1/chat/completions` through the official client, against the reference's conversations."""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai import OpenAI
from running_server import CHAT_LLAMA, ServerProcess

MODEL = "chat_llama"
MESSAGES: list[Any] = [{"role": "user", "content": "Hello, who are you?"}]


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--default-chat-template-kwargs", '{"unused": 1}') as running:
        yield running


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> OpenAI:
    return server.client()


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    reference = json.loads((CHAT_LLAMA / "chat_reference.json").read_text())
    assert isinstance(reference, dict)
    return reference


def chat_of(reference: dict[str, Any], name: str) -> dict[str, Any]:
    return next(chat for chat in reference["chats"] if chat["name"] == name)


def test_answers_are_the_references(client: OpenAI, reference: dict[str, Any]) -> None:
    assert reference["completions"]
    for completion in reference["completions"]:
        chat = completion
        if "messages" not in completion:
            chat = chat_of(reference, completion["name"])
        result = client.chat.completions.create(
            model=MODEL,
            messages=chat["messages"],
            temperature=0,
            max_tokens=48,
            extra_body={
                "repetition_penalty": 1.0,
                "return_token_ids": True,
                "add_generation_prompt": chat.get("add_generation_prompt", True),
                "continue_final_message": chat.get("continue_final_message", False),
            },
        )
        [choice] = result.choices
        assert result.model_dump()["prompt_token_ids"] == completion["prompt_token_ids"]
        assert choice.model_dump()["token_ids"] == completion["token_ids"]
        assert choice.message.content is not None
        left_out = completion["text"].removeprefix(choice.message.content)
        assert left_out in ("", "\ufffd"), "all but an unfinished character at the end"
        assert choice.finish_reason == completion["finish_reason"]
        assert result.usage is not None
        assert result.usage.completion_tokens == len(completion["token_ids"])


def test_what_the_template_refuses_is_a_bad_request(
    client: OpenAI, reference: dict[str, Any]
) -> None:
    for refused in reference["refused"]:
        with pytest.raises(openai.BadRequestError, match=refused["error"]) as caught:
            client.chat.completions.create(model=MODEL, messages=refused["messages"])
        assert caught.value.param == "messages"


def test_tokenize_renders_conversations(server: ServerProcess, reference: dict[str, Any]) -> None:
    for chat in reference["chats"]:
        fields = ("messages", "add_generation_prompt", "continue_final_message")
        body = {name: chat[name] for name in fields}
        assert server.ask("POST", "/tokenize", body).json()["tokens"] == chat["token_ids"]


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_answer_says(client: OpenAI, n: int) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": MESSAGES,
        "max_completion_tokens": 40,
        "n": n,
        "seed": 11,
        "temperature": 0.9,
        "stream_options": {"include_usage": True},
    }
    chunks = list(client.chat.completions.create(**request, stream=True))
    del request["stream_options"]
    whole = client.chat.completions.create(**request)
    texts = dict.fromkeys(range(n), "")
    reasons: dict[int, str | None] = {}
    for index in range(n):
        first = next(c.choices[0] for c in chunks if c.choices and c.choices[0].index == index)
        assert first.delta.role == "assistant"
    for chunk in chunks:
        assert chunk.id == chunks[0].id
        assert chunk.object == "chat.completion.chunk"
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                reasons[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[-1].usage == whole.usage
    assert {choice.message.role for choice in whole.choices} == {"assistant"}


def test_without_max_tokens_an_answer_may_fill_the_context(client: OpenAI) -> None:
    result = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, temperature=0, extra_body={"ignore_eos": True}
    )
    assert result.usage is not None
    assert result.usage.total_tokens == 512
    assert result.choices[0].finish_reason == "length"


def test_text_parts_are_joined(client: OpenAI) -> None:
    def answer(content: Any) -> str | None:
        result = client.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": content}],
            temperature=0,
            max_tokens=16,
        )
        return result.choices[0].message.content

    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert answer(parts) == answer("one\ntwo")
    assert answer("one") != answer("two")


def test_logprobs_hold_the_chosen_and_the_likeliest(client: OpenAI) -> None:
    request: dict[str, Any] = {
        "model": MODEL,
        "messages": MESSAGES,
        "temperature": 0,
        "max_tokens": 12,
        "logprobs": True,
        "top_logprobs": 3,
        "extra_body": {"ignore_eos": True},
    }
    [choice] = client.chat.completions.create(**request).choices
    assert choice.logprobs is not None
    content = choice.logprobs.content
    assert content is not None
    assert len(content) == 12
    for token in content:
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (top.logprob for top in token.top_logprobs), reverse=True
        )
        assert len(token.top_logprobs) == 3
        assert bytes(token.bytes or []).decode() == token.token
    deltas = [
        token
        for chunk in client.chat.completions.create(**request, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert deltas == content
    request["top_logprobs"] = None
    [choice] = client.chat.completions.create(**request).choices
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert choice.logprobs.content[0].top_logprobs == []
    assert choice.logprobs.content[0].logprob == content[0].logprob


def test_continue_final_message_with_echo_returns_the_whole_message(client: OpenAI) -> None:
    messages: list[Any] = [*MESSAGES, {"role": "assistant", "content": "I am"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    request: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": 8, "seed": 3}
    plain = client.chat.completions.create(**request, extra_body=extra)
    echoed = client.chat.completions.create(**request, extra_body={**extra, "echo": True})
    assert plain.choices[0].message.content is not None
    assert echoed.choices[0].message.content == "I am" + plain.choices[0].message.content
    stream = client.chat.completions.create(
        **request, extra_body={**extra, "echo": True}, stream=True
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in stream)
    assert text == echoed.choices[0].message.content


def test_an_answer_can_be_sent_back_as_it_came(client: OpenAI) -> None:
    first = client.chat.completions.create(
        model=MODEL, messages=MESSAGES, max_tokens=8, temperature=0
    )
    history: list[Any] = [*MESSAGES, first.choices[0].message.model_dump(), *MESSAGES]
    again = client.chat.completions.create(
        model=MODEL, messages=history, max_tokens=8, temperature=0, tool_choice="none"
    )
    assert again.choices[0].message.role == "assistant"


def test_the_models_own_sampling_defaults_hold_unless_overruled(client: OpenAI) -> None:
    """generation_config.json says temperature 0.7 and top_k 20, so seeds matter without asking."""

    def answer(seed: int, **options: Any) -> str | None:
        result = client.chat.completions.create(
            model=MODEL, messages=MESSAGES, max_tokens=24, seed=seed, **options
        )
        content: str | None = result.choices[0].message.content
        return content

    assert answer(1) == answer(1, temperature=0.7, top_p=0.8, extra_body={"top_k": 20})
    assert len({answer(seed) for seed in range(4)}) > 1
    assert len({answer(seed, temperature=0) for seed in range(4)}) == 1
