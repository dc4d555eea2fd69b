"""`rustllm classify`: the class of each line."""

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
    """Writes a line of JSON with the likeliest class of each text, and the probability of all."""
    parser = _parser()
    args = parser.parse(arguments)
    engine = engine_args(parser, args, args.model)
    portions = batches(read_lines(parser, args))

    from rustllm.llm import LLM
    from rustllm.pooling_params import PoolingParams

    params = PoolingParams(use_activation=args.use_activation)
    llm = LLM.from_engine_args(engine)
    names = llm.llm_engine.model.labels
    index = 0
    for batch in portions:
        outputs = llm.classify(
            [line.text for line in batch],
            pooling_params=params,
            tokenization_kwargs=tokenization_kwargs(args),
        )
        results = []
        for output in outputs:
            probs = output.outputs.probs
            results.append({"label": names[probs.index(max(probs))], "probs": probs})
        write_results(index, batch, results)
        index += len(batch)
    return 0


def _parser() -> Parser:
    parser = Parser("classify", "Say which class each text is of.")
    add_input_flags(parser)
    add_pooling_flags(parser)
    add_engine_flags(parser)
    return parser
