"""Chat templates: Jinja from a model's folder, rendered in a sandbox.

Templates and messages are strangers' input. The environment is the one templates are written for
(that of `transformers`: its globals, filters and whitespace rules), immutable and sandboxed, and a
template sees nothing but plain JSON-like data.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rustllm.errors import ValidationError

if TYPE_CHECKING:
    import jinja2

__all__ = ["render_chat"]

_RESERVED = frozenset(
    {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}
    | {"conversation", "chat_template", "tokenize"}
)

_CONTINUE = "RUSTLLM_CONTINUE_HERE "
"""Marks the end of the final message; the space at its end shows whether the template trims."""


def render_chat(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    special_tokens: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]] | None = None,
    documents: Sequence[Mapping[str, Any]] | None = None,
    add_generation_prompt: bool = True,
    continue_final_message: bool = False,
    kwargs: Mapping[str, Any] | None = None,
) -> str:
    """Renders a conversation as the prompt text a model expects.

    Args:
        template: The Jinja source.
        messages: The conversation; keys that hold `None` are left out.
        special_tokens: `bos_token`, `eos_token` and so on, for the template.
        tools: JSON schemas of the tools the model may call.
        documents: Documents for templates that take them.
        add_generation_prompt: End with the header of the assistant's answer.
        continue_final_message: End inside the last message, for the model to go on with it.
        kwargs: More variables for the template.

    Raises:
        ValidationError: a template that does not parse or refuses the messages.
    """
    if not messages:
        raise ValidationError(
            "messages must hold at least one message", parameter="messages", value=[]
        )
    if add_generation_prompt and continue_final_message:
        raise ValidationError(
            "continue_final_message and add_generation_prompt cannot both be set: "
            "pass add_generation_prompt=False to continue the final message",
            parameter="continue_final_message",
            value=True,
        )
    if reserved := sorted(_RESERVED & set(kwargs or ())):
        message = f"chat_template_kwargs cannot set {', '.join(reserved)}"
        raise ValidationError(message, parameter="chat_template_kwargs", value=reserved)
    conversation = [
        {key: value for key, value in _plain("messages", message).items() if value is not None}
        for message in messages
    ]
    final_text = _mark_final(conversation[-1]) if continue_final_message else ""
    rendered = _render(
        template,
        {
            **special_tokens,
            **_plain("chat_template_kwargs", kwargs or {}),
            "messages": conversation,
            "tools": _plain("tools", tools),
            "documents": _plain("documents", documents),
            "add_generation_prompt": add_generation_prompt,
        },
    )
    return _cut_at_mark(rendered, final_text) if continue_final_message else rendered


def _render(template: str, variables: dict[str, Any]) -> str:
    import jinja2

    try:
        return _compiled(template).render(**variables)
    except jinja2.TemplateSyntaxError as error:
        message = f"the chat template does not parse: line {error.lineno}: {error.message}"
        raise ValidationError(message, parameter="chat_template") from error
    except jinja2.TemplateError as error:
        message = f"the chat template refuses the messages: {error.message}"
        raise ValidationError(message, parameter="messages") from error
    except Exception as error:  # the template's own code: an addition of str and None, say
        message = f"the chat template fails on the messages: {type(error).__name__}: {error}"
        raise ValidationError(message, parameter="messages") from error


def _mark_final(message: dict[str, Any]) -> str:
    """Puts the mark behind the final message's text, and returns that text."""
    content = message.get("content")
    if isinstance(content, str):
        message["content"] = content + _CONTINUE
        return content
    for part in reversed(content if isinstance(content, list) else []):
        if isinstance(part, dict) and isinstance(part.get("text"), str):
            text: str = part["text"]
            part["text"] = text + _CONTINUE
            return text
    raise ValidationError(
        "continue_final_message needs a final message with text to continue",
        parameter="messages",
        value=message,
    )


def _cut_at_mark(rendered: str, final_text: str) -> str:
    end = rendered.rfind(_CONTINUE.rstrip())
    if end < 0 or final_text.strip() not in rendered:
        raise ValidationError(
            "continue_final_message: the chat template does not render the final message",
            parameter="continue_final_message",
            value=True,
        )
    kept = rendered[:end]
    return kept if rendered.startswith(_CONTINUE, end) else kept.rstrip()


def _plain(field: str, value: Any) -> Any:
    """The value rebuilt from plain JSON types: templates meet no other object's methods."""
    if value is None or type(value) in (str, int, float, bool):
        return value
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, Mapping):
        return {_plain(field, key): _plain(field, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(field, item) for item in value]
    message = f"{field} must be plain JSON data, got a {type(value).__name__}"
    raise ValidationError(message, parameter=field, value=value)


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> jinja2.Template:
    return _environment().from_string(template)


@functools.cache
def _environment() -> jinja2.Environment:
    import jinja2
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """Lets `{% generation %}` blocks, which mark text for training, through as they are."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter escapes HTML, which models have not been trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )
