"""Input and output of the commands that read many texts: lines or JSONL in, JSONL out."""

import argparse
import contextlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from rustllm.cli.arguments import Parser

BATCH = 512
"""Texts that are read before any is computed; results are written batch by batch."""

_JSONL_ENDINGS = (".jsonl", ".ndjson")


class TextLine(NamedTuple):
    """A text, and the fields that go with its result."""

    text: str
    fields: dict[str, Any]


def add_input_flags(parser: Parser) -> None:
    """Adds the file, and how it is to be read."""
    parser.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="file of texts, one a line; stdin when there is none, or when it is -",
    )
    parser.add_argument("--model", required=True, help="model folder or hub id")
    parser.add_argument(
        "--format",
        choices=("auto", "text", "jsonl"),
        default="auto",
        help="auto reads JSONL from files named .jsonl, and where the first line is a JSON object",
    )
    parser.add_argument(
        "--text-field", default="text", metavar="NAME", help="JSONL: the field that holds the text"
    )


def add_pooling_flags(parser: Parser) -> None:
    """Adds the parameters of requests."""
    parser.add_argument(
        "--truncate-prompt-tokens",
        type=int,
        metavar="N",
        help="keep at most N tokens of a text, -1 for what the model can take; else longer texts "
        "are refused",
    )
    parser.add_argument(
        "--use-activation",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="make probabilities of scores, and give embeddings length 1; the model's own way if "
        "not given",
    )


def read_lines(parser: Parser, args: argparse.Namespace) -> Iterator[TextLine]:
    """The texts of the file that `args` name; ends the process with status 2 at a bad line."""
    with _open(parser, args.file) as source:
        lines = enumerate(source, 1)
        first = next(lines, None)
        if first is None:
            return
        as_json = args.format == "jsonl" or (
            args.format == "auto" and _looks_like_json(args.file, first[1])
        )
        for number, line in itertools.chain([first], lines):
            text = line.rstrip("\r\n")
            if as_json and text.strip():
                yield _read_json(parser, args.text_field, number, text)
            elif not as_json:
                yield TextLine(text, {})


def batches(lines: Iterator[TextLine]) -> Iterable[list[TextLine]]:
    """The texts in portions; the first is read at once, before a model is loaded for nothing."""

    def portions() -> Iterator[list[TextLine]]:
        while batch := list(itertools.islice(lines, BATCH)):
            yield batch

    first = list(itertools.islice(lines, BATCH))
    return itertools.chain([first], portions()) if first else ()


def tokenization_kwargs(args: argparse.Namespace) -> dict[str, Any]:
    """How texts become tokens."""
    return {"truncate_prompt_tokens": args.truncate_prompt_tokens}


def write_results(index: int, lines: Sequence[TextLine], results: Sequence[dict[str, Any]]) -> None:
    """Writes a line of JSON for each text: its number, its `id` if it had one, its result."""
    for number, (line, result) in enumerate(zip(lines, results, strict=True), index):
        write_json({"index": number, **line.fields, **result})
    sys.stdout.flush()


def write_json(fields: dict[str, Any]) -> None:
    """Writes one line of JSON."""
    sys.stdout.write(json.dumps(fields, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def _open(parser: Parser, name: str | None) -> Iterator[TextIO]:
    try:
        if name is None or name == "-":
            if sys.stdin.isatty():
                parser.error("give a FILE, or pipe texts in")
            yield sys.stdin
        else:
            with Path(name).open(encoding="utf-8") as source:
                yield source
    except UnicodeDecodeError:
        parser.error(f"{name or 'stdin'} is not UTF-8 text")
    except OSError as error:
        parser.error(f"cannot read {name}: {error.strerror}")


def _looks_like_json(name: str | None, line: str) -> bool:
    if name is not None and name.endswith(_JSONL_ENDINGS):
        return True
    try:
        return line.startswith("{") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _read_json(parser: Parser, field: str, number: int, line: str) -> TextLine:
    try:
        item = json.loads(line)
    except ValueError:
        parser.error(f"line {number} is not JSON")
    text = item.get(field) if isinstance(item, dict) else None
    if not isinstance(text, str):
        parser.error(f"line {number} is no JSON object with a string in its field {field!r}")
    return TextLine(text, {"id": item["id"]} if "id" in item else {})
