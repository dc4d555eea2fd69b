"""Chat templates: rendered as transformers does, and safe with those of strangers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rustllm.chat_messages import prepare_messages
from rustllm.chat_template import render_chat
from rustllm.errors import ValidationError
from rustllm.tokenizer import Tokenizer

USER = {"role": "user", "content": "hi"}


def render(template: str, messages: Any = (USER,), **options: Any) -> str:
    return render_chat(template, messages, special_tokens={"bos_token": "<s>"}, **options)


@pytest.mark.parametrize("name", ["chat_llama", "tokenizer_spm"])
def test_equals_transformers(goldens: Path, name: str) -> None:
    tokenizer = Tokenizer.from_folder(goldens / name)
    reference = json.loads((goldens / name / "chat_reference.json").read_text())
    for case in reference["chats"]:
        text = tokenizer.apply_chat_template(
            case["messages"],
            add_generation_prompt=case["add_generation_prompt"],
            continue_final_message=case["continue_final_message"],
        )
        assert text == case["text"], case["name"]
        assert tokenizer.encode(text, add_special_tokens=False) == case["token_ids"]
    assert reference["refused"]
    for case in reference["refused"]:
        with pytest.raises(ValidationError) as caught:
            tokenizer.apply_chat_template(case["messages"], add_generation_prompt=False)
        assert case["error"] in str(caught.value)
        assert caught.value.parameter == "messages"


def test_environment_of_templates() -> None:
    assert render("{{ bos_token }}{{ messages[0].content }}") == "<s>hi"
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'
    assert render("{{ [1] | tojson(indent=2) }}") == "[\n  1\n]"
    assert render("{% for i in range(5) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}")
    assert render("a{% generation %}{{ messages[0].content }}{% endgeneration %}b") == "ahib"
    assert len(render("{{ strftime_now('%Y') }}")) == 4
    assert render("  {% if true %}\nx\n  {% endif %}\n") == "x\n"
    assert render("{{ undefined_name }}|{{ tools is none }}") == "|True"
    assert render("{{ enable_thinking }}", kwargs={"enable_thinking": False}) == "False"


def test_keys_holding_none_are_left_out() -> None:
    message = {"role": "assistant", "content": None, "tool_calls": None}
    template = "{{ 'content' in messages[0] }} {{ 'tool_calls' in messages[0] }}"
    assert render(template, [message]) == "False False"


def test_tools_and_documents_reach_the_template() -> None:
    tool = {"type": "function", "function": {"name": "look_up"}}
    assert render("{{ tools[0].function.name }}", tools=[tool]) == "look_up"
    assert render("{{ documents[0].title }}", documents=[{"title": "T"}]) == "T"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ ''.__class__.__mro__ }}", "refuses the messages"),
        ("{{ messages.append(1) }}", "refuses the messages"),
        ("{{ cycler.__init__.__globals__ }}", "refuses the messages"),
        ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big"),
        ("{{ raise_exception('only users') }}", "refuses the messages: only users"),
        ("{% if %}", "does not parse: line 1"),
        ("{{ 1 + messages[0].content }}", "fails on the messages: TypeError"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
    ],
)
def test_bad_templates_are_refused(template: str, message: str) -> None:
    with pytest.raises(ValidationError, match=message.replace("(", r"\(")):
        render(template)


def test_templates_see_plain_data_only() -> None:
    class Opens:
        def read(self) -> str:
            raise AssertionError("a template called into the program")

    with pytest.raises(ValidationError, match="plain JSON data, got a Opens"):
        render("{{ messages[0].content.read() }}", [{"role": "user", "content": Opens()}])
    with pytest.raises(ValidationError, match="chat_template_kwargs must be plain JSON data"):
        render("{{ x.read() }}", kwargs={"x": Opens()})


def test_reserved_template_variables_are_refused() -> None:
    with pytest.raises(ValidationError, match="cannot set messages, tools"):
        render("x", kwargs={"tools": [], "messages": []})


def test_continue_final_message() -> None:
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}[end]{% endfor %}"
    options = {"add_generation_prompt": False, "continue_final_message": True}
    messages = [USER, {"role": "assistant", "content": "I th "}]
    assert render(template, messages, **options) == "[user]hi[end][assistant]I th "
    trimming = template.replace("m.content", "m.content | trim")
    assert render(trimming, messages, **options) == "[user]hi[end][assistant]I th"
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}]}]
    assert render("{{ messages[0].content[0].text }}!", parts, **options) == "a"
    with pytest.raises(ValidationError, match="cannot both be set"):
        render(template, messages, continue_final_message=True)
    with pytest.raises(ValidationError, match="does not render the final message"):
        render("{{ messages[0].content }}", messages, **options)
    with pytest.raises(ValidationError, match="a final message with text"):
        render(template, [{"role": "assistant"}], **options)
    assert messages[1]["content"] == "I th "


def test_no_messages() -> None:
    with pytest.raises(ValidationError, match="at least one message"):
        render("x", [])


def test_named_templates(tmp_path: Path, chat_llama: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((chat_llama / "tokenizer.json").read_bytes())
    templates = [
        {"name": "default", "template": "default"},
        {"name": "tool_use", "template": "with tools"},
    ]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": templates}))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.apply_chat_template([USER]) == "default"
    assert tokenizer.apply_chat_template([USER], tools=[{"name": "f"}]) == "with tools"
    assert tokenizer.apply_chat_template([USER], chat_template="tool_use") == "with tools"
    assert tokenizer.apply_chat_template([USER], chat_template="given") == "given"
    (tmp_path / "chat_template.jinja").write_text("of the file")
    assert Tokenizer.from_folder(tmp_path).apply_chat_template([USER]) == "of the file"
    config.write_text("{}")
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ValidationError, match="has no chat template: pass chat_template="):
        Tokenizer.from_folder(tmp_path).apply_chat_template([USER])


def test_content_parts_become_text() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "input_text", "text": "b"}, "c"]
    message = {"role": "user", "content": parts}
    assert prepare_messages([message])[0]["content"] == "a\nb\nc"
    kept = prepare_messages([message], "openai")[0]["content"]
    assert kept == [{"type": "text", "text": text} for text in "abc"]
    assert message["content"] is parts


def test_tool_call_arguments_are_parsed() -> None:
    call = {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}}
    [prepared] = prepare_messages([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert prepared["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert call["function"]["arguments"] == '{"x": 1}'  # type: ignore[index]
    bad = {"function": {"name": "f", "arguments": "{"}}
    with pytest.raises(ValidationError, match="arguments must be JSON"):
        prepare_messages([{"role": "assistant", "tool_calls": [bad]}])


@pytest.mark.parametrize(
    ("messages", "text"),
    [
        ([{"content": "x"}], "dict with a role"),
        (["x"], "dict with a role"),
        ([{"role": "user", "content": 3}], "content must be a string or a list of parts"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "'image_url' is not supported"),
        ([{"role": "user", "content": [{"type": "text", "text": 1}]}], "must be text"),
        ([{"role": "assistant", "tool_calls": ["x"]}], "must hold a function"),
    ],
)
def test_bad_messages_are_refused(messages: Any, text: str) -> None:
    with pytest.raises(ValidationError, match=text):
        prepare_messages(messages)
