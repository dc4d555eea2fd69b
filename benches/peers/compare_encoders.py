"""Compare rustllm with sentence-transformers and ONNX Runtime on encoders, taking turns.

    python make_encoders.py WORK MINILM
    python compare_encoders.py WORK --peers-python encoders/bin/python

Batches of 1, 32 and 256 sentences of 5 to 128 tokens, text in, embeddings out, float32. A turn of
an engine takes half a second at least; the others are held meanwhile. The engines' embeddings are
compared as well. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
import sysconfig
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np
from tokenizers import Tokenizer

from engines import Contestant
from processes import RunnerProcess
from roofline import Limits, Probe

MODELS: Final = ("minilm", "bert-base")
OURS: Final = "rustllm"
PEERS: Final = ("sentence-transformers", "onnxruntime")
BATCHES: Final = (1, 32, 256)
SHORTEST: Final = 5
LONGEST: Final = 128
SECONDS_A_TURN: Final = 0.5


def sentences(tokenizer: Tokenizer) -> list[tuple[str, int]]:
    """Sentences of the standard library's documentation, and their tokens."""
    tokenizer.no_padding()
    tokenizer.no_truncation()
    found: dict[str, int] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for doc in re.findall(r'"""(.+?)"""', text, re.DOTALL):
            for sentence in re.split(r"(?<=[.!?])\s+", " ".join(doc.split())):
                if len(sentence) > 2 * SHORTEST:
                    found[sentence] = len(tokenizer.encode(sentence).ids)
    return [(text, tokens) for text, tokens in found.items() if SHORTEST <= tokens <= LONGEST]


def ragged(pool: list[tuple[str, int]], size: int, seed: int) -> tuple[list[str], list[int]]:
    """`size` sentences whose lengths are spread evenly over what there is."""
    source = random.Random(seed)
    chosen = []
    for _ in range(size):
        wanted = source.randint(SHORTEST, LONGEST)
        near = [entry for entry in pool if abs(entry[1] - wanted) <= max(2, wanted // 10)]
        chosen.append(source.choice(near or pool))
    return [text for text, _ in chosen], [tokens for _, tokens in chosen]


def operations(folder: Path, lengths: list[int]) -> float:
    """Multiplications and additions of the sentences' own tokens."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    hidden, inner = config["hidden_size"], config["intermediate_size"]
    matrices = sum(lengths) * (4 * hidden * hidden + 2 * hidden * inner)
    attention = sum(2 * hidden * length * length for length in lengths)
    return float(2 * config["num_hidden_layers"] * (matrices + attention))


class Runner:
    """An engine with a model, held while it is not its turn."""

    def __init__(self, process: RunnerProcess) -> None:
        self.process = process
        self.seconds: list[float] = []
        process.hold()

    def embeddings(self, texts: list[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """What it makes of some texts; also its warm-up."""
        self.process.go_on()
        reply = self.process.ask(texts=texts, embeddings=True)
        self.process.hold()
        return np.array(reply["embeddings"], np.float32)

    def turn(self, texts: list[str]) -> None:
        """Adds the fastest of the repetitions that fit into a turn."""
        self.process.go_on()
        times: list[float] = []
        while sum(times) < SECONDS_A_TURN:
            times.append(self.process.ask(texts=texts)["value"])
        self.process.hold()
        self.seconds.append(min(times))


def compare(folder: Path, arguments: argparse.Namespace, probe: Probe) -> list[str]:
    """The table's rows of one model."""
    pool = sentences(Tokenizer.from_file(str(folder / "tokenizer.json")))
    here = Path(__file__).resolve().parent
    rows: list[str] = []
    with ExitStack() as stack:
        log = stack.enter_context((arguments.work / "runners.log").open("ab"))
        runners: dict[str, Runner] = {}
        for name in (OURS, *PEERS):
            python = arguments.rustllm_python if name == OURS else arguments.peers_python
            options = [name, str(folder.resolve()), str(arguments.threads)]
            command = [python, "-m", "runners.encoder_runner", *options]
            environment = {"PYTHONPATH": str(here), "TOKENIZERS_PARALLELISM": "true"}
            process = RunnerProcess(Contestant(name, command, environment), log, 600.0)
            stack.callback(process.close)
            runners[name] = Runner(process)
        for size in BATCHES:
            texts, lengths = ragged(pool, size, size)
            vectors = {name: runner.embeddings(texts) for name, runner in runners.items()}
            cosines = [float((vectors[OURS] * vectors[name]).sum(1).min()) for name in PEERS]
            probed: list[Limits] = []
            for runner in runners.values():
                runner.seconds.clear()
            for repetition in range(arguments.repetitions):
                limits = probe.measure()
                probed += [limits] if limits else []
                for runner in runners.values():
                    runner.turn(texts)
                print(f"{folder.name} {size}: round {repetition + 1}", file=sys.stderr)
            peak = median(limit.float_ops for limit in probed) if probed else float("nan")
            share = operations(folder, lengths) / median(runners[OURS].seconds) / peak
            rows.append(row(folder.name, size, lengths, runners, share, min(cosines)))
    return rows


def row(
    model: str,
    size: int,
    lengths: list[int],
    runners: dict[str, Runner],
    share: float,
    cosine: float,
) -> str:
    """A line of the table."""
    ours = median(runners[OURS].seconds)
    cells = [f"{model}", f"{size} ({sum(lengths)} tokens)", f"{1e3 * ours:.1f} ms", f"{share:.0%}"]
    for name in PEERS:
        theirs = median(runners[name].seconds)
        ratio = median(
            t / o for t, o in zip(runners[name].seconds, runners[OURS].seconds, strict=True)
        )
        cells.append(f"{1e3 * theirs:.1f} ms, {ratio:.2f} x")
    return "| " + " | ".join([*cells, f"{cosine:.6f}"]) + " |"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("work", type=Path, help="folder of models/")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rustllm-python", default=sys.executable)
    parser.add_argument("--peers-python", required=True, help="has sentence-transformers and both")
    arguments = parser.parse_args()
    probe = Probe(arguments.work, arguments.threads)
    heads = ["model", "sentences", "rustllm", "of the peak", *PEERS, "least cosine"]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for model in arguments.models:
        lines += compare(arguments.work / "models" / model, arguments, probe)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
