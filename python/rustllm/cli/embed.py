"""`rustllm embed`: a vector of each line."""

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args
from rustllm.cli.text_lines import (
    add_input_flags,
    add_pooling_flags,
    batches,
    read_lines,
    tokenization_kwargs,
    write_results,
)


def run(arguments: list[str]) -> int:
    """Writes a line of JSON with the embedding of each text."""
    parser = _parser()
    args = parser.parse(arguments)
    engine = engine_args(parser, args, args.model)
    portions = batches(read_lines(parser, args))

    from rustllm.llm import LLM
    from rustllm.pooling_params import PoolingParams

    params = PoolingParams(use_activation=args.use_activation, dimensions=args.dimensions)
    llm = LLM.from_engine_args(engine)
    index = 0
    for batch in portions:
        outputs = llm.embed(
            [line.text for line in batch],
            pooling_params=params,
            tokenization_kwargs=tokenization_kwargs(args),
            prompt_name=args.prompt_name,
            prompt=args.prompt,
        )
        results = [{"embedding": output.outputs.embedding} for output in outputs]
        write_results(index, batch, results)
        index += len(batch)
    return 0


def _parser() -> Parser:
    parser = Parser("embed", "Make a vector of each text.")
    add_input_flags(parser)
    add_pooling_flags(parser)
    parser.add_argument(
        "--dimensions", type=int, metavar="N", help="leading elements to keep of each vector"
    )
    parser.add_argument(
        "--prompt-name", metavar="NAME", help="which of the model's prompts to put before texts"
    )
    parser.add_argument("--prompt", metavar="TEXT", help="what to put before texts instead")
    add_engine_flags(parser)
    return parser
