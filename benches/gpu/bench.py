"""Measure rustllm on a GPU beside its limits and beside transformers, in turn, and print a table.

    python ../make_models.py WORK llama-3.1-8b-shape qwen2.5-0.5b-shape --no-tokenizer
    python bench.py WORK                   limits, then each engine on each model of WORK
    python bench.py WORK --models qwen2.5-0.5b-shape --engines rustllm

A row's share of the limit: of decoding, the bytes of weights read for each token over the copy
bandwidth; of prefill, two operations a parameter and token over the rate of a large product.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Final

ENGINES: Final[dict[str, list[str]]] = {
    "rustllm": ["rustllm"],
    "rustllm, deterministic": ["rustllm", "--deterministic"],
    "rustllm, no graphs": ["rustllm", "--enforce-eager"],
    "torch": ["torch"],
}

Figures = dict[str, float]


def run(command: list[str], folder: Path | None) -> Figures:
    """The figures that a run reports; none if it fails, with its last words shown."""
    place = [] if folder is None else [str(folder)]
    arguments = [sys.executable, str(Path(__file__).with_name("runs.py")), command[0], *place]
    done = subprocess.run([*arguments, *command[1:]], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        print(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}", file=sys.stderr)
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["figure"]: line["value"] for line in lines}


def parameters(folder: Path) -> int:
    """Parameters that a token is multiplied with: without a table that it is looked up in."""
    with (folder / "model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if "lm_head.weight" in tensors:
        del tensors["model.embed_tokens.weight"]
    return sum(math.prod(each["shape"]) for name, each in tensors.items() if name != "__metadata__")


def share(figure: str, value: float, parameters: int, limits: Figures) -> str:
    """A figure as a share of what the device could do."""
    if figure.startswith("decode") and "copy" in limits:
        return f"{value * 2 * parameters / (limits['copy'] * 1e12):.0%}"
    if figure.startswith("prefill") and "gemm" in limits:
        return f"{value * 2 * parameters / (limits['gemm'] * 1e12):.0%}"
    return ""


def main() -> None:
    """Runs everything and prints the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--models", nargs="*", help="folders of WORK; all if none is named")
    parser.add_argument("--engines", nargs="*", default=list(ENGINES), choices=list(ENGINES))
    args = parser.parse_args()
    limits = run(["limits"], None)
    print(f"copy {limits.get('copy', 0):.2f} TB/s, product {limits.get('gemm', 0):.0f} TFLOP/s")
    for model in args.models or sorted(folder.name for folder in args.work.iterdir()):
        size = parameters(args.work / model)
        results = {engine: run(ENGINES[engine], args.work / model) for engine in args.engines}
        figures = list(dict.fromkeys(figure for result in results.values() for figure in result))
        print(f"\n| {model} | " + " | ".join(args.engines) + " |")
        print("| --- |" + " --- |" * len(args.engines))
        for figure in figures:
            cells = []
            for engine in args.engines:
                value = results[engine].get(figure)
                cell = "" if value is None else f"{value:.4g} {share(figure, value, size, limits)}"
                cells.append(cell.strip())
            print(f"| {figure} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
