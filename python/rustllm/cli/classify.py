"""`rustllm classify`: the class of each line."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from rustllm.cli.pooled_lines import pool_lines, pooling_parser, request_options

if TYPE_CHECKING:
    from rustllm.llm import LLM


def run(arguments: list[str]) -> int:
    """Writes a line of JSON with the likeliest class of each text, and the probability of all."""
    parser = pooling_parser("classify", "Say which class each text is of.")
    return pool_lines(parser, arguments, _classify)


def _classify(llm: LLM, args: argparse.Namespace, texts: list[str]) -> list[dict[str, Any]]:
    names = llm.llm_engine.model.labels
    outputs = llm.classify(texts, **request_options(args))
    found = [output.outputs.probs for output in outputs]
    return [{"label": names[probs.index(max(probs))], "probs": probs} for probs in found]
