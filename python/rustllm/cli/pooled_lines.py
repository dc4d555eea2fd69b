"""What the commands that make something of each line share: flags, and the way through the file."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args
from rustllm.cli.text_lines import (
    add_input_flags,
    add_pooling_flags,
    batches,
    read_lines,
    tokenization_kwargs,
    write_results,
)

if TYPE_CHECKING:
    from rustllm.llm import LLM

Compute = Callable[["LLM", argparse.Namespace, list[str]], list[dict[str, Any]]]
"""The fields that the command line's options make of some texts."""


def pooling_parser(
    command: str, description: str, add_own_flags: Callable[[Parser], object] = lambda _: None
) -> Parser:
    """The parser of a command that reads a file: the flags of all of them, and its own."""
    parser = Parser(command, description)
    add_input_flags(parser)
    add_pooling_flags(parser)
    add_own_flags(parser)
    add_engine_flags(parser)
    return parser


def pool_lines(parser: Parser, arguments: list[str], compute: Compute) -> int:
    """Writes a line of JSON with what `compute` makes of each text."""
    args = parser.parse(arguments)
    engine = engine_args(parser, args, args.model)
    portions = batches(read_lines(parser, args))

    from rustllm.llm import LLM

    llm = LLM.from_engine_args(engine)
    index = 0
    for batch in portions:
        write_results(index, batch, compute(llm, args, [line.text for line in batch]))
        index += len(batch)
    return 0


def request_options(args: argparse.Namespace, **params: Any) -> dict[str, Any]:
    """What the flags ask of every request; `params` are further ones of its `PoolingParams`."""
    from rustllm.pooling_params import PoolingParams

    return {
        "pooling_params": PoolingParams(use_activation=args.use_activation, **params),
        "tokenization_kwargs": tokenization_kwargs(args),
    }
