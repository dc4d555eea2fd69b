"""`rustllm ner`: the entities of each line."""

import contextlib
import sys
from collections.abc import Callable, Iterator

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args
from rustllm.cli.text_lines import add_input_flags, batches, read_lines, write_results

STRATEGIES = ("none", "simple", "first", "average", "max")


def run(arguments: list[str]) -> int:
    """Writes a line of JSON with the entities of each text."""
    parser = _parser()
    args = parser.parse(arguments)
    engine = engine_args(parser, args, args.model)
    lines = read_lines(parser, args)

    from rustllm.pipelines.token_classification import TokenClassificationPipeline

    ner = TokenClassificationPipeline(
        engine,
        aggregation_strategy=args.aggregation_strategy,
        stride=args.stride,
        ignore_labels=args.ignore_labels,
    )
    index = 0
    with _progress() as count:
        for batch in batches(lines):
            found = ner([line.text for line in batch])
            write_results(index, batch, [{"entities": entities} for entities in found])
            index += len(batch)
            count(len(batch))
    return 0


def _parser() -> Parser:
    parser = Parser("ner", "Find the entities of each text: names of people, places and the like.")
    add_input_flags(parser)
    parser.add_argument(
        "--aggregation-strategy",
        choices=STRATEGIES,
        default="simple",
        help="how tokens are joined to entities",
    )
    parser.add_argument(
        "--stride",
        type=int,
        metavar="N",
        help="read long texts in windows that share N tokens; they are cut if not given",
    )
    parser.add_argument(
        "--ignore-labels", nargs="*", metavar="LABEL", help="labels to leave out; O if not given"
    )
    add_engine_flags(parser)
    return parser


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int], object]]:
    """Counts texts on stderr, where that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from tqdm import tqdm  # type: ignore[import-untyped]

    with tqdm(desc="Texts", unit=" texts", dynamic_ncols=True) as bar:
        yield bar.update
