"""What is measured of an engine, each engine in a process of its own: a line of JSON a figure.

    python runs.py limits
    python runs.py rustllm FOLDER [--device cuda] [--deterministic] [--enforce-eager] [--quick]
    python runs.py torch FOLDER [--device cuda] [--quick]

`bench.py` runs them all and makes the table.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

START = time.perf_counter()
"""Before anything large is imported."""

PREFILL = (512, 2048, 8192)
"""Prompt lengths."""

STREAMS = (64, 256)
"""Requests at once, of 128 tokens, with 512 to generate."""

REPEATS = 5


def report(figure: str, value: float, unit: str) -> None:
    """Prints a figure."""
    print(json.dumps({"figure": figure, "value": value, "unit": unit}), flush=True)


def median_seconds(run: Callable[[], Any], repeats: int = REPEATS) -> float:
    """The median time of a run that was run once before."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def limits() -> None:
    """What the device can do: bytes copied a second, and products of bfloat16 matrices."""
    import torch

    torch.cuda.init()
    source = torch.empty(4 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    a, b = (torch.randn(8192, 8192, dtype=torch.bfloat16, device="cuda") for _ in range(2))

    def timed(run: Callable[[], Any], count: int) -> float:
        def all_of_them() -> None:
            for _ in range(count):
                run()
            torch.cuda.synchronize()

        return median_seconds(all_of_them) / count

    report("copy", 2 * source.numel() / timed(lambda: target.copy_(source), 10) / 1e12, "TB/s")
    report("gemm", 2 * 8192**3 / timed(lambda: a @ b, 20) / 1e12, "TFLOP/s")


def prompts(count: int, length: int, vocab_size: int, seed: int) -> list[list[int]]:
    """Prompts of random tokens, none the beginning of another."""
    import numpy as np

    tokens = np.random.default_rng(seed).integers(1, vocab_size, (count, length))
    return [[int(token) for token in row] for row in tokens]


def rustllm(folder: Path, args: argparse.Namespace) -> None:
    """This project's engine."""
    from rustllm import LLM, SamplingParams

    llm = LLM(
        folder,
        skip_tokenizer_init=True,
        device=args.device,
        deterministic=args.deterministic,
        enforce_eager=args.enforce_eager,
        enable_prefix_caching=False,
        max_model_len=512 if args.quick else 16384,
        max_num_seqs=max(STREAMS),
        max_num_batched_tokens=8192,
    )
    vocab_size = json.loads((folder / "config.json").read_text())["vocab_size"]
    seeds = iter(range(1_000_000))

    def generate(count: int, length: int, max_tokens: int) -> None:
        params = SamplingParams(
            temperature=0, max_tokens=max_tokens, ignore_eos=True, detokenize=False
        )
        llm.generate(prompts(count, length, vocab_size, next(seeds)), params, use_tqdm=False)

    generate(1, 8, 1)
    report("start to first token", time.perf_counter() - START, "s")
    repeats = 1 if args.quick else REPEATS
    short, long = (4, 12) if args.quick else (32, 288)
    decode = median_seconds(lambda: generate(1, 128, long), repeats)
    decode -= median_seconds(lambda: generate(1, 128, short), repeats)
    report("decode 1", (long - short) / decode, "tok/s")
    for length in [64] if args.quick else PREFILL:
        seconds = median_seconds(partial(generate, 1, length, 1), repeats)
        report(f"prefill {length}", length / seconds, "tok/s")
    for count, inside, outside in [(4, 16, 8)] if args.quick else [(n, 128, 512) for n in STREAMS]:
        seconds = median_seconds(partial(generate, count, inside, outside), 1)
        report(f"{count} requests", count * outside / seconds, "tok/s")


def torch_engine(folder: Path, args: argparse.Namespace) -> None:
    """Transformers on torch: SDPA, a static cache, the decoding step compiled."""
    import torch
    import transformers

    config = transformers.AutoConfig.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=torch.bfloat16,
        # Straight to a GPU, which takes the package accelerate.
        device_map=None if args.device == "cpu" else args.device,
        attn_implementation="sdpa",
    )
    model.eval()

    def tokens(count: int, length: int) -> Any:
        return torch.randint(1, config.vocab_size, (count, length), device=args.device)

    def synchronize() -> None:
        if args.device != "cpu":
            torch.cuda.synchronize()

    repeats = 1 if args.quick else REPEATS
    with torch.inference_mode():
        model(tokens(1, 8))
        synchronize()
        report("start to first token", time.perf_counter() - START, "s")
        for length in [64] if args.quick else PREFILL:
            inputs = tokens(1, length)

            def prefill(inputs: Any = inputs) -> None:
                model(inputs, logits_to_keep=1)
                synchronize()

            report(f"prefill {length}", length / median_seconds(prefill, repeats), "tok/s")

        def generate(max_tokens: int) -> None:
            model.generate(
                tokens(1, 128),
                max_new_tokens=max_tokens,
                min_new_tokens=max_tokens,
                do_sample=False,
                cache_implementation="static",
            )
            synchronize()

        short, long = (4, 12) if args.quick else (32, 288)
        decode = median_seconds(lambda: generate(long), repeats)
        decode -= median_seconds(lambda: generate(short), repeats)
        report("decode 1", (long - short) / decode, "tok/s")


def main() -> None:
    """Runs one of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("engine", choices=("limits", "rustllm", "torch"))
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--deterministic", action="store_true")
    parser.add_argument("--enforce-eager", action="store_true")
    parser.add_argument("--quick", action="store_true", help="small figures: to see that it runs")
    args = parser.parse_args()
    if args.engine == "limits":
        limits()
    elif args.folder is None:
        parser.error(f"{args.engine} needs a model's folder")
    elif args.engine == "rustllm":
        rustllm(args.folder, args)
    else:
        torch_engine(args.folder, args)


if __name__ == "__main__":
    main()
