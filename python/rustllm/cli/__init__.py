"""The `rustllm` command.

Commands are looked up by name and imported only when run, so that `rustllm --help` and `--version`
answer at once.
"""

import importlib
import os
import sys
from collections.abc import Sequence

COMMANDS = {
    "generate": "continue a text",
    "chat": "talk with a model",
    "embed": "make a vector of each line of a file",
    "classify": "say which class each line of a file is of",
    "rerank": "order the lines of a file by how well they answer a query",
    "ner": "find the entities of each line of a file",
    "serve": "serve a model over HTTP with OpenAI's API",
    "bench": "measure latency, throughput or start-up time",
    "doctor": "say what rustllm finds on this machine",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    0 for success, 1 for an error of the engine or the model, 2 for bad arguments, 130 when
    interrupted. Errors are one line on stderr; with `RUSTLLM_TRACEBACK=1` the traceback comes too.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    first = arguments[0] if arguments else "--help"
    if first in ("-h", "--help"):
        print(_help())
        return 0 if arguments else 2
    if first in ("-V", "--version"):
        import rustllm

        print(f"rustllm {rustllm.__version__}")
        return 0
    if first not in COMMANDS:
        commands = ", ".join(COMMANDS)
        print(
            f"rustllm: error: unknown command {first!r}; commands are {commands}", file=sys.stderr
        )
        return 2
    return _run(first, arguments[1:])


def _run(command: str, arguments: list[str]) -> int:
    """Runs one command, and turns what it raises into an exit status."""
    from rustllm.errors import RustllmError

    try:
        module = importlib.import_module(f"rustllm.cli.{command}")
        status = int(module.run(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # Whoever read our output has left; there is nobody to tell, not even at the interpreter's
        # exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RustllmError as error:
        if os.environ.get("RUSTLLM_TRACEBACK"):
            raise
        print(f"rustllm {command}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return status


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in COMMANDS.items())
    return f"""usage: rustllm COMMAND [ARGUMENTS]

A language-model inference engine.

commands:
{commands}

options:
  -h, --help     show this help; after a command, the command's
  -V, --version  show the version"""
