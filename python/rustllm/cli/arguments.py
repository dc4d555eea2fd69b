"""Command-line flags made from `EngineArgs` and `SamplingParams`: the same names,
`--with-dashes`.
"""

import argparse
import dataclasses
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.sampling_params import SamplingParams
from rustllm.unsupported_args import IGNORED, NEUTRAL

_NOT_FLAGS = frozenset({"model", "skip_tokenizer_init"})
"""Fields of `EngineArgs` that are no flags: the model is an argument, and every command needs the
tokenizer.
"""

_IGNORED_SWITCHES = frozenset(
    {
        "disable_cascade_attn",
        "disable_chunked_mm_input",
        "disable_custom_all_reduce",
        "disable_log_requests",
        "enable_log_requests",
        "use_tqdm_on_load",
    }
)
"""Those of vLLM's flags without a meaning here that take no value."""

_SAMPLING_FLAGS = (
    "n",
    "max_tokens",
    "min_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "stop_token_ids",
    "include_stop_str_in_output",
    "ignore_eos",
    "skip_special_tokens",
    "bad_words",
)


class Parser(argparse.ArgumentParser):
    """Complains in one line, knows no abbreviations, and reads `--max_tokens` as `--max-tokens`."""

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=f"rustllm {command}",
            description=description,
            allow_abbrev=False,
            formatter_class=_Help,
        )
        self.engine_flags: set[str] = set()

    def error(self, message: str) -> NoReturn:
        """Ends the process with status 2."""
        line = " ".join(message.split())
        print(f"{self.prog}: error: {line} (see {self.prog} --help)", file=sys.stderr)
        sys.exit(2)

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Parses the arguments after the command."""
        end = arguments.index("--") if "--" in arguments else len(arguments)
        dashed = [
            re.sub(r"^--[\w-]+", lambda flag: flag.group().replace("_", "-"), argument)
            for argument in arguments[:end]
        ]
        return self.parse_args([*dashed, *arguments[end:]])


class _Help(argparse.HelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        """The help and the default, where there is one to tell."""
        text = action.help or ""
        if action.default in (None, argparse.SUPPRESS, [], {}) or not action.option_strings:
            return text
        return f"{text} (default: %(default)s)"


def add_engine_flags(parser: Parser) -> None:
    """Adds a flag for every field of `EngineArgs`, and hidden ones for vLLM's without a meaning.

    Flags that the parser has already keep their first meaning.
    """
    group = parser.add_argument_group("engine")
    hints, helps = typing.get_type_hints(EngineArgs), _argument_docs(EngineArgs)
    taken = set(parser._option_string_actions)
    for field in dataclasses.fields(EngineArgs):
        if field.name not in _NOT_FLAGS and _flag(field.name) not in taken:
            add_flag(group, field.name, hints[field.name], helps.get(field.name, ""))
            parser.engine_flags.add(field.name)
    for name in (*NEUTRAL, *IGNORED):
        if _flag(name) not in taken:
            _add_foreign_flag(group, name)
            parser.engine_flags.add(name)


def engine_args(parser: Parser, args: argparse.Namespace, model: str | None) -> EngineArgs:
    """The engine's arguments among `args`; ends the process if they are bad."""
    given = {
        name: value
        for name, value in vars(args).items()
        if name in parser.engine_flags and value is not None
    }
    try:
        return EngineArgs.from_kwargs(model=model, **given)
    except ValidationError as error:
        parser.error(str(error))


def add_sampling_flags(parser: argparse.ArgumentParser, *, leave_out: Sequence[str] = ()) -> None:
    """Adds flags for sampling; what is not given is left to the model's own defaults."""
    group = parser.add_argument_group("sampling")
    hints, helps = typing.get_type_hints(SamplingParams), _argument_docs(SamplingParams)
    for name in _SAMPLING_FLAGS:
        if name not in leave_out:
            add_flag(group, name, hints[name], helps.get(name, ""))


def sampling_values(parser: Parser, args: argparse.Namespace) -> dict[str, Any]:
    """The sampling parameters among `args`; ends the process if they are bad."""
    values = {
        name: value
        for name, value in vars(args).items()
        if name in _SAMPLING_FLAGS and value is not None
    }
    try:
        SamplingParams.from_optional(**values)
    except ValidationError as error:
        parser.error(str(error))
    return values


def add_flag(group: argparse._ActionsContainer, name: str, hint: Any, text: str) -> None:
    """Adds `--name` for a field of type `hint`; absent flags are `None`."""
    kinds = set(typing.get_args(hint)) if _is_union(hint) else {hint}
    kinds.discard(type(None))
    options: dict[str, Any] = {"dest": name, "help": text.replace("%", "%%"), "default": None}
    origins = {typing.get_origin(kind) or kind for kind in kinds}
    if kinds == {bool}:
        options["action"] = argparse.BooleanOptionalAction
    elif bool in kinds:
        options |= {"nargs": "?", "const": True, "metavar": "VALUE"}
    elif dict in origins:
        options |= {"type": json_object, "metavar": "JSON"}
    elif list in origins:
        item = next(typing.get_args(kind)[0] for kind in kinds if typing.get_origin(kind) is list)
        options |= {"nargs": "+", "type": item, "metavar": name.removesuffix("s").upper()}
    elif kinds <= {int, float}:
        options |= {"type": int if kinds == {int} else float, "metavar": "N"}
    else:
        options["metavar"] = "VALUE"
    group.add_argument(_flag(name), **options)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (typing.Union, types.UnionType)


def _add_foreign_flag(group: argparse._ActionsContainer, name: str) -> None:
    is_switch = name in _IGNORED_SWITCHES or (name in NEUTRAL and NEUTRAL[name][0] == (False,))
    options: dict[str, Any] = {"dest": name, "default": None, "help": argparse.SUPPRESS}
    if is_switch:
        options["action"] = argparse.BooleanOptionalAction
    else:
        options["type"] = _json_or_text
    group.add_argument(_flag(name), **options)


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def json_object(text: str) -> dict[str, Any]:
    """Reads a flag's value that must be a JSON object."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value


def _argument_docs(documented: Callable[..., object]) -> dict[str, str]:
    """What the `Args:` of a docstring say about each argument."""
    docstring = inspect.getdoc(documented) or ""
    _, _, section = docstring.partition("Args:\n")
    entries = re.finditer(r"^    (\w+): (.+(?:\n        .+)*)", section, re.MULTILINE)
    return {entry[1]: " ".join(entry[2].split()) for entry in entries}
