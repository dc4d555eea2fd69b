"""`rustllm chat`: talk with a model."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING

from rustllm.cli.arguments import (
    Parser,
    add_engine_flags,
    add_sampling_flags,
    engine_args,
    sampling_values,
)
from rustllm.errors import RustllmError, ValidationError

if TYPE_CHECKING:
    from rustllm.cli.session import Session

HELP = "/reset forgets the conversation, /exit leaves; Ctrl-C stops an answer, Ctrl-D leaves."


def run(arguments: list[str]) -> int:
    """Talks until the input ends. On a terminal it prompts; from a pipe each line is a message."""
    parser = Parser("chat", f"Talk with a model. {HELP}")
    parser.add_argument(
        "--model", help="model folder or hub id; the model in the wheel if not given"
    )
    parser.add_argument("--system", metavar="TEXT", help="system message to begin with")
    add_sampling_flags(parser, leave_out=("n",))
    add_engine_flags(parser)
    args = parser.parse(arguments)
    values = sampling_values(parser, args)
    engine = engine_args(parser, args, args.model)

    from rustllm.cli.session import Session

    with Session(engine) as session:
        return Conversation(session, values, args.system).run()


class Conversation:
    """The messages so far, and the loop that adds to them.

    Args:
        session: The engine.
        values: Sampling parameters the user gave.
        system: System message to begin with.
    """

    def __init__(self, session: Session, values: dict[str, object], system: str | None) -> None:
        self._session = session
        self._tokenizer = session.engine.get_tokenizer()
        try:
            self._tokenizer.get_chat_template(session.engine.model.chat_template)
        except ValidationError as error:
            raise RustllmError(
                "this model has no chat template: give one with --chat-template, "
                "or use `rustllm generate`"
            ) from error
        self._params = session.sampling_params(values, None)
        self._start = [{"role": "system", "content": system}] if system else []
        self._messages = list(self._start)
        self._interactive = sys.stdin.isatty()

    def run(self) -> int:
        """Reads and answers until there is no more to read."""
        if self._interactive:
            with contextlib.suppress(ImportError):
                import readline  # noqa: F401  (gives `input` its editing and history)
            print(HELP, file=sys.stderr)
        while True:
            line = self._read()
            if line is None or line == "/exit":
                return 0
            if line == "/reset":
                self._messages = list(self._start)
            elif line.startswith("/") and self._interactive:
                print(HELP, file=sys.stderr)
            elif line:
                self._answer(line)

    def _read(self) -> str | None:
        """The next message; `None` at the end of the input."""
        if not self._interactive:
            line = sys.stdin.readline()
            return line.strip() if line else None
        try:
            return input("> ").strip()
        except EOFError:
            print(file=sys.stderr)
            return None
        except KeyboardInterrupt:
            print(file=sys.stderr)
            return ""

    def _answer(self, text: str) -> None:
        """Writes the answer to `text`. On a terminal an error costs the message and not the
        conversation.
        """
        self._messages.append({"role": "user", "content": text})
        pieces: list[str] = []

        def write(piece: str) -> None:
            pieces.append(piece)
            _write(piece)

        try:
            self._session.stream(self._prompt(), self._params, write)
        except KeyboardInterrupt:
            if not self._interactive:
                raise
        except ValidationError as error:
            if not self._interactive:
                raise
            self._messages.pop()
            print(f"rustllm chat: {error}", file=sys.stderr)
            return
        _write("\n")
        self._messages.append({"role": "assistant", "content": "".join(pieces)})

    def _prompt(self) -> dict[str, list[int]]:
        rendered = self._session.engine.processor.render_chat(self._messages)
        token_ids = self._tokenizer.encode(rendered, add_special_tokens=False)
        return {"prompt_token_ids": token_ids}


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
