"""`rustllm rerank`: the lines that answer a query best."""

import argparse

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args
from rustllm.cli.text_lines import (
    add_input_flags,
    add_pooling_flags,
    read_lines,
    tokenization_kwargs,
    write_json,
)


def run(arguments: list[str]) -> int:
    """Writes the documents as lines of JSON, the best first."""
    parser = _parser()
    args = parser.parse(arguments)
    engine = engine_args(parser, args, args.model)
    documents = list(read_lines(parser, args))
    if not documents:
        return 0

    from rustllm.llm import LLM
    from rustllm.pooling_params import PoolingParams

    llm = LLM.from_engine_args(engine)
    outputs = llm.score(
        args.query,
        [document.text for document in documents],
        pooling_params=PoolingParams(use_activation=args.use_activation),
        tokenization_kwargs=tokenization_kwargs(args),
    )
    scores = [output.outputs.score for output in outputs]
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
    for index in ranked[: args.top_n]:
        text, fields = documents[index]
        write_json({"index": index, **fields, "relevance_score": scores[index], "document": text})
    return 0


def _parser() -> Parser:
    parser = Parser("rerank", "Order texts by how well they answer a query.")
    parser.add_argument("query", metavar="QUERY", help="what is looked for")
    add_input_flags(parser)
    add_pooling_flags(parser)
    parser.add_argument("--top-n", type=_count, metavar="N", help="results to write; all if absent")
    add_engine_flags(parser)
    return parser


def _count(text: str) -> int:
    if not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"must be a number above 0, got {text!r}")
    return int(text)
