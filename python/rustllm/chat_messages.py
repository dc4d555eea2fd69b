"""Conversations as the chat APIs take them, made ready for a chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from rustllm.errors import ValidationError

__all__ = ["ChatTemplateContentFormat", "Message", "is_conversation", "prepare_messages"]

Message = Mapping[str, Any]
"""`role` and `content`, and what else a template reads (`name`, `tool_calls`, ...)."""

ChatTemplateContentFormat = Literal["auto", "string", "openai"]

_TEXT_PARTS: Final = {
    "text": "text",
    "input_text": "text",
    "output_text": "text",
    "refusal": "refusal",
}
"""Types of content parts that are text, and the key that holds it."""


def is_conversation(messages: Any) -> bool:
    """Whether this is one conversation, rather than a list of them."""
    return isinstance(messages, Sequence) and not any(
        isinstance(item, (list, tuple)) for item in messages
    )


def prepare_messages(
    messages: Sequence[Message], content_format: ChatTemplateContentFormat = "auto"
) -> list[dict[str, Any]]:
    """Checks a conversation and brings it into the form templates expect.

    Content given as parts is joined to one string (`openai` keeps the parts), and the arguments of
    tool calls are parsed from JSON.

    Raises:
        ValidationError: a message without a role, or content that is not text.
    """
    if content_format not in ("auto", "string", "openai"):
        message = (
            f"chat_template_content_format must be auto, string or openai, got {content_format!r}"
        )
        raise ValidationError(
            message, parameter="chat_template_content_format", value=content_format
        )
    if not is_conversation(messages):
        raise ValidationError(
            "messages must be a list of messages", parameter="messages", value=messages
        )
    return [_prepare(message, content_format) for message in messages]


def _prepare(message: Any, content_format: str) -> dict[str, Any]:
    if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
        text = f"each message must be a dict with a role, got {message!r}"
        raise ValidationError(text, parameter="messages", value=message)
    prepared = dict(message)
    content = prepared.get("content")
    if isinstance(content, (list, tuple)):
        parts = [_text_part(part) for part in content]
        prepared["content"] = (
            [{"type": "text", "text": text} for text in parts]
            if content_format == "openai"
            else "\n".join(parts)
        )
    elif content is not None and not isinstance(content, str):
        text = f"content must be a string or a list of parts, got {type(content).__name__}"
        raise ValidationError(text, parameter="messages", value=content)
    if prepared.get("tool_calls"):
        prepared["tool_calls"] = [_tool_call(call) for call in prepared["tool_calls"]]
    return prepared


def _text_part(part: Any) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, Mapping) else None
    text = part.get(_TEXT_PARTS[kind]) if kind in _TEXT_PARTS else None
    if not isinstance(text, str):
        message = f"content parts must be text; {kind or type(part).__name__!r} is not supported"
        raise ValidationError(message, parameter="messages", value=kind)
    return text


def _tool_call(call: Any) -> Any:
    """The call with its arguments parsed: the chat APIs carry them as a string of JSON."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        raise ValidationError("a tool call must hold a function", parameter="messages", value=call)
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            message = f"tool call arguments must be JSON, got {arguments!r}"
            raise ValidationError(message, parameter="messages", value=arguments) from None
    return {**call, "function": {**function, "arguments": arguments}}
