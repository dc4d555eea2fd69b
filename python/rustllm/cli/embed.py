"""`rustllm embed`: a vector of each line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rustllm.cli.arguments import Parser
from rustllm.cli.pooled_lines import pool_lines, pooling_parser, request_options

if TYPE_CHECKING:
    from rustllm.llm import LLM


def run(arguments: list[str]) -> int:
    """Writes a line of JSON with the embedding of each text."""
    parser = pooling_parser("embed", "Make a vector of each text.", _add_flags)
    return pool_lines(parser, arguments, _embed)


def _embed(llm: LLM, args: argparse.Namespace, texts: list[str]) -> list[dict[str, Any]]:
    options = request_options(args, dimensions=args.dimensions)
    outputs = llm.embed(texts, **options, prompt_name=args.prompt_name, prompt=args.prompt)
    return [{"embedding": output.outputs.embedding} for output in outputs]


def _add_flags(parser: Parser) -> None:
    parser.add_argument(
        "--dimensions", type=int, metavar="N", help="leading elements to keep of each vector"
    )
    parser.add_argument(
        "--prompt-name", metavar="NAME", help="which of the model's prompts to put before texts"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to put before texts instead")
