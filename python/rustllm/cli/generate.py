"""`rustllm generate`: continue a text."""

import argparse
import sys

from rustllm.cli.arguments import (
    Parser,
    add_engine_flags,
    add_sampling_flags,
    engine_args,
    sampling_values,
)

DEFAULT_MAX_TOKENS = 128


def run(arguments: list[str]) -> int:
    """Continues each prompt on stdout."""
    parser = _parser()
    args = parser.parse(arguments)
    values = sampling_values(parser, args)
    engine = engine_args(parser, args, args.model)
    prompts = args.prompts or [_read_prompt(parser)]
    if not all(prompts):
        parser.error("the prompt is empty")

    from rustllm.cli.session import Session

    with Session(engine) as session:
        params = session.sampling_params(values, DEFAULT_MAX_TOKENS)
        for prompt in prompts:
            if args.echo:
                _write(prompt)
            if args.stream and params.n == 1:
                session.stream(prompt, params, _write)
                _write("\n")
            else:
                for output in session.complete(prompt, params).outputs:
                    _write(output.text + "\n")
    return 0


def _parser() -> Parser:
    parser = Parser("generate", "Continue a text.")
    parser.add_argument(
        "prompts",
        nargs="*",
        metavar="PROMPT",
        help="text to continue; read from stdin, without its last newline, when there is none",
    )
    parser.add_argument(
        "--model", help="model folder or hub id; the model in the wheel if not given"
    )
    parser.add_argument(
        "--stream",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="write the text while it is generated",
    )
    parser.add_argument("--echo", action="store_true", help="write the prompt first")
    add_sampling_flags(parser)
    add_engine_flags(parser)
    return parser


def _read_prompt(parser: Parser) -> str:
    if sys.stdin.isatty():
        parser.error("give a PROMPT, or pipe one in")
    try:
        return sys.stdin.read().removesuffix("\n")
    except UnicodeDecodeError:
        parser.error("stdin is not UTF-8 text")


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
