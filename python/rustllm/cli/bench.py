"""`rustllm bench`: latency of a batch, throughput of many prompts, time from nothing to a first
token.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rustllm.cli.arguments import Parser, add_engine_flags, engine_args
from rustllm.errors import RustllmError
from rustllm.inputs import TokensPrompt
from rustllm.llm import LLM
from rustllm.sampling_params import SamplingParams

PERCENTILES = (10, 25, 50, 75, 90, 99)


def run(arguments: list[str]) -> int:
    """Runs the benchmark named first."""
    kind = arguments[0] if arguments else "--help"
    if kind in ("-h", "--help"):
        print("usage: rustllm bench {latency,throughput,startup} [ARGUMENTS]\n")
        for name, (text, _, _) in BENCHMARKS.items():
            print(f"  {name:<10}  {text}")
        return 0 if arguments else 2
    if kind not in BENCHMARKS:
        names = ", ".join(BENCHMARKS)
        line = f"rustllm bench: error: unknown benchmark {kind!r}; there are {names}"
        print(line, file=sys.stderr)
        return 2
    text, add_flags, measure = BENCHMARKS[kind]
    parser = Parser(f"bench {kind}", text)
    parser.add_argument(
        "--model", help="model folder or hub id; the model in the wheel if not given"
    )
    parser.add_argument(
        "--output-json",
        metavar="PATH",
        help="write the results there; - for stdout, instead of the table",
    )
    add_flags(parser)
    add_engine_flags(parser)
    return measure(parser, arguments[1:])


def _latency_flags(parser: Parser) -> None:
    _add_counts(parser, {"input_len": 32, "output_len": 128, "batch_size": 8, "n": 1})
    _add_counts(parser, {"num_iters": 30})
    parser.add_argument("--num-iters-warmup", type=int, default=10, help="runs before measuring")


def _latency(parser: Parser, arguments: Sequence[str]) -> int:
    args = parser.parse(arguments)
    if args.enable_prefix_caching is None:
        # Every run has the same prompts: the cache would spare all but the first their prefill.
        args.enable_prefix_caching = False
    llm = LLM.from_engine_args(engine_args(parser, args, args.model))
    prompts = _random_prompts(llm, args.batch_size, args.input_len, args.seed or 0)
    params = _params(args.output_len, args.n)
    for _ in range(args.num_iters_warmup):
        llm.generate(prompts, params, use_tqdm=False)
    latencies = [
        _timed(lambda: llm.generate(prompts, params, use_tqdm=False)) for _ in range(args.num_iters)
    ]
    generated = args.batch_size * args.n * args.output_len
    mean = statistics.fmean(latencies)
    return _report(
        args.output_json,
        {
            "avg_latency": mean,
            "output_tokens_per_second": generated / mean,
            "prefix_cache_hits": llm.llm_engine.stats().prefix_cache_hits,
            "percentiles": _percentiles(latencies),
            "latencies": latencies,
        },
    )


def _throughput_flags(parser: Parser) -> None:
    _add_counts(parser, {"num_prompts": 1000, "input_len": 128, "output_len": 128, "n": 1})


def _throughput(parser: Parser, arguments: Sequence[str]) -> int:
    args = parser.parse(arguments)
    llm = LLM.from_engine_args(engine_args(parser, args, args.model))
    prompts = _random_prompts(llm, args.num_prompts, args.input_len, args.seed or 0)
    params = _params(args.output_len, args.n)
    elapsed = _timed(lambda: llm.generate(prompts, params, use_tqdm=sys.stderr.isatty()))
    output_tokens = args.num_prompts * args.n * args.output_len
    total_tokens = output_tokens + args.num_prompts * args.input_len
    return _report(
        args.output_json,
        {
            "elapsed_time": elapsed,
            "num_requests": args.num_prompts,
            "total_num_tokens": total_tokens,
            "requests_per_second": args.num_prompts / elapsed,
            "tokens_per_second": total_tokens / elapsed,
            "output_tokens_per_second": output_tokens / elapsed,
        },
    )


def _startup_flags(parser: Parser) -> None:
    _add_counts(parser, {"num_iters": 5})
    parser.add_argument("--prompt", default="def fibonacci(n):", help="text to continue")


def _startup(parser: Parser, arguments: Sequence[str]) -> int:
    args = parser.parse(arguments)
    engine_args(parser, args, args.model)
    ours = {"--output-json", "--num-iters", "--prompt"}
    passed_on = _without(arguments, ours)
    generate = [sys.executable, "-m", "rustllm", "generate", args.prompt, "--max-tokens", "1"]
    importing = (
        "import time; t = time.perf_counter(); import rustllm; print(time.perf_counter() - t)"
    )
    first_token = [_time_to_first_byte([*generate, *passed_on]) for _ in range(args.num_iters)]
    imports = [
        float(subprocess.check_output([sys.executable, "-c", importing]))
        for _ in range(args.num_iters)
    ]
    bare = [
        _timed(lambda: subprocess.check_call([sys.executable, "-c", "pass"]))
        for _ in range(args.num_iters)
    ]
    return _report(
        args.output_json,
        {
            "startup_time": statistics.median(first_token),
            "import_time": statistics.median(imports),
            "python_time": statistics.median(bare),
            "startup_times": first_token,
        },
    )


BENCHMARKS: dict[
    str, tuple[str, Callable[[Parser], None], Callable[[Parser, Sequence[str]], int]]
] = {
    "latency": ("seconds one batch of prompts takes", _latency_flags, _latency),
    "throughput": ("tokens per second over many prompts", _throughput_flags, _throughput),
    "startup": ("seconds from starting the process to its first token", _startup_flags, _startup),
}


def _add_counts(parser: Parser, defaults: dict[str, int]) -> None:
    for name, default in defaults.items():
        parser.add_argument(
            "--" + name.replace("_", "-"),
            type=_positive,
            default=default,
            metavar="N",
            help=_COUNTS[name],
        )


_COUNTS = {
    "input_len": "tokens of each prompt, chosen at random",
    "output_len": "tokens to generate after each",
    "batch_size": "prompts in the batch",
    "n": "completions of each prompt",
    "num_iters": "runs to measure",
    "num_prompts": "prompts in all",
}


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise ValueError
    return value


def _params(output_len: int, n: int) -> SamplingParams:
    return SamplingParams(n=n, temperature=1.0, max_tokens=output_len, ignore_eos=True)


def _random_prompts(llm: LLM, count: int, length: int, seed: int) -> list[TokensPrompt]:
    rng = random.Random(seed)
    size = llm.llm_engine.model_info.vocab_size
    return [{"prompt_token_ids": rng.choices(range(size), k=length)} for _ in range(count)]


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _time_to_first_byte(command: Sequence[str]) -> float:
    """Seconds from starting `command` to the first byte on its stdout."""
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        elapsed = time.perf_counter() - start
        _, errors = process.communicate()
    if process.returncode != 0 or not first:
        reason = errors.decode(errors="replace").strip().splitlines() or ["it wrote nothing"]
        raise RustllmError(f"the measured command failed: {reason[-1]}")
    return elapsed


def _without(arguments: Sequence[str], flags: set[str]) -> list[str]:
    """`arguments` without these flags and their values."""
    kept, rest = [], iter(arguments)
    for argument in rest:
        name = argument.split("=", 1)[0].replace("_", "-")
        if name not in flags:
            kept.append(argument)
        elif "=" not in argument:
            next(rest, None)
    return kept


def _percentiles(values: Sequence[float]) -> dict[str, float]:
    ordered = sorted(values)
    result = {}
    for percent in PERCENTILES:
        place = (len(ordered) - 1) * percent / 100
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        result[str(percent)] = ordered[low] + (ordered[high] - ordered[low]) * (place - low)
    return result


def _report(output_json: str | None, results: dict[str, Any]) -> int:
    text = json.dumps(results, indent=2)
    if output_json == "-":
        print(text)
        return 0
    if output_json is not None:
        try:
            Path(output_json).write_text(text + "\n")
        except OSError as error:
            raise RustllmError(f"cannot write {output_json}: {error.strerror}") from error
    for name, value in results.items():
        if isinstance(value, dict):
            for percent, seconds in value.items():
                print(f"{f'percentile {percent}':<26}{seconds:.4f}")
        elif not isinstance(value, list):
            print(f"{name:<26}{value:.4f}" if isinstance(value, float) else f"{name:<26}{value}")
    return 0
