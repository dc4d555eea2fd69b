"""Measure rustllm on a GPU beside its limits and beside transformers, in turn, and print a table.

    python bench.py WORK --results figures.jsonl
    python bench.py WORK --models qwen2.5-0.5b-shape --engines rustllm torch --results figures.jsonl

Models that are not in WORK are made. A figure is printed, and a line of JSON appended to the
results, as soon as it is measured; the tables are of all that the results hold, from earlier runs
too. A row's share of the limit: of decoding, the bytes of weights read for each token over the copy
bandwidth; of prefill, two operations a parameter and token over the rate of a large product.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

ENGINES: Final[dict[str, list[str]]] = {
    "limits": ["limits"],
    "rustllm": ["rustllm"],
    "deterministic": ["rustllm", "--deterministic"],
    "no-graphs": ["rustllm", "--enforce-eager"],
    "torch": ["torch"],
}
"""The arguments of runs.py, by what is asked for; the device's limits are of no model."""

OF_TORCH: Final = ("limits", "torch")

MODELS: Final = ("llama-3.1-8b-shape", "qwen2.5-0.5b-shape")

HERE: Final = Path(__file__).parent

Figure = dict[str, Any]


def run(engine: str, model: str, args: argparse.Namespace) -> bool:
    """Measures an engine on a model and keeps every figure as it comes; whether all went well."""
    if engine in OF_TORCH and importlib.util.find_spec("torch") is None:
        print(f"{engine}: skipped, there is no torch", flush=True)
        return True
    name, *flags = ENGINES[engine]
    command = [
        sys.executable,
        str(HERE / "runs.py"),
        name,
        *([str(args.work / model)] if model else []),
    ]
    command += [*flags, "--device", args.device, *(["--quick"] if args.quick else [])]
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        killer = threading.Timer(args.seconds, running.kill)
        killer.start()
        for line in running.stdout or ():
            if not line.startswith("{"):
                print(line, end="", flush=True)
                continue
            figure = {"model": model, "engine": engine, **json.loads(line)}
            with args.results.open("a") as results:
                results.write(json.dumps(figure) + "\n")
            print(
                f"{model} {engine}: {figure['figure']} {figure['value']:.4g} {figure['unit']}",
                flush=True,
            )
        killer.cancel()
    seconds = time.perf_counter() - start
    if running.returncode != 0:
        print(
            f"{engine} on {model} failed after {seconds:.0f} s: status {running.returncode}",
            flush=True,
        )
    return running.returncode == 0


def make_model(work: Path, model: str) -> None:
    """Makes a model unless it is there."""
    start = time.perf_counter()
    command = [sys.executable, str(HERE.parent / "make_models.py"), str(work), model]
    subprocess.run([*command, "--no-tokenizer"], check=True)
    print(f"made in {time.perf_counter() - start:.1f} s", flush=True)


def parameters(folder: Path) -> int:
    """Parameters that a token is multiplied with: without a table that it is looked up in."""
    with (folder / "model.safetensors").open("rb") as file:
        tensors = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    if "lm_head.weight" in tensors:
        del tensors["model.embed_tokens.weight"]
    return sum(math.prod(each["shape"]) for name, each in tensors.items() if name != "__metadata__")


def share(figure: str, value: float, parameters: int, limits: dict[str, float]) -> str:
    """A figure as a share of what the device could do."""
    if figure.startswith("decode") and "copy" in limits:
        return f"{value * 2 * parameters / (limits['copy'] * 1e12):.0%}"
    if figure.startswith("prefill") and "gemm" in limits:
        return f"{value * 2 * parameters / (limits['gemm'] * 1e12):.0%}"
    return ""


def print_table(model: str, size: int, figures: list[Figure]) -> None:
    """A row for each figure of a model, a column for each engine: the last value of each."""
    limits = {each["figure"]: each["value"] for each in figures if each["engine"] == "limits"}
    values = {(each["figure"], each["engine"]): each for each in figures if each["model"] == model}
    engines = [engine for engine in ENGINES if any(engine == column for _, column in values)]
    print(f"\n| {model} | " + " | ".join(engines) + " |")
    print("| --- |" + " --- |" * len(engines))
    for figure in dict.fromkeys(row for row, _ in values):
        cells = []
        for engine in engines:
            value = values.get((figure, engine), {}).get("value")
            cell = "" if value is None else f"{value:.4g} {share(figure, value, size, limits)}"
            cells.append(cell.strip())
        print(f"| {figure} | " + " | ".join(cells) + " |")


def main() -> None:
    """Runs everything and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("work", type=Path, help="folder of the models")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--engines", nargs="+", default=list(ENGINES), choices=list(ENGINES))
    parser.add_argument("--results", type=Path, default=Path("figures.jsonl"))
    parser.add_argument("--seconds", type=float, default=200, help="that an engine may take")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true", help="small figures: to see that it runs")
    args = parser.parse_args()
    went_well = "limits" not in args.engines or run("limits", "", args)
    args.work.mkdir(parents=True, exist_ok=True)
    for model in args.models:
        make_model(args.work, model)
    for engine in args.engines:
        for model in args.models if engine != "limits" else ():
            went_well &= run(engine, model, args)
    lines = args.results.read_text().splitlines() if args.results.exists() else []
    for model in args.models:
        print_table(model, parameters(args.work / model), [json.loads(line) for line in lines])
    sys.exit(0 if went_well else 1)


if __name__ == "__main__":
    main()
