"""What is measured: shapes of the requests, their prompts, and what each figure means."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

Generate = Callable[[list[list[int]], int], int]
"""Runs prompts for so many tokens each, greedily and past end tokens; returns the tokens made."""


@dataclass(frozen=True)
class Workload:
    """Requests that arrive at once.

    Args:
        name: Its name in commands and tables.
        requests: Number of requests.
        shared: Tokens that all prompts begin with.
        own: Tokens that each prompt goes on with.
        new: Tokens to generate for each.
        figure: `prefill` (prompt tokens a second until the first token), `decode` (tokens a second
            after the first), `batch` (generated tokens over the whole time) or `seconds`.
    """

    name: str
    requests: int
    shared: int
    own: int
    new: int
    figure: str

    @property
    def prompt_len(self) -> int:
        """Tokens of one prompt."""
        return self.shared + self.own

    @property
    def unit(self) -> str:
        """Unit of the figure."""
        return "s" if self.figure == "seconds" else "tok/s"

    def speed_ratio(self, value: float, other: float) -> float:
        """How many times as fast as `other` a figure `value` is, whatever the unit."""
        return other / value if self.figure == "seconds" else value / other


WORKLOADS: Final = {
    workload.name: workload
    for workload in (
        Workload("prefill", 1, 0, 512, 1, "prefill"),
        Workload("decode", 1, 0, 16, 128, "decode"),
        Workload("batch16", 16, 0, 128, 128, "batch"),
        Workload("batch64", 64, 0, 128, 128, "batch"),
        Workload("prefix", 16, 1024, 32, 32, "seconds"),
        Workload("startup", 1, 0, 16, 1, "seconds"),
    )
}

MAX_MODEL_LEN: Final = 2048
"""Longest sequence the engines are told to expect."""

MAX_NUM_SEQS: Final = 64
"""Most sequences at once."""

KV_CACHE_GIB: Final = 2
"""Cache the engines may take, where they ask."""


def vocab_size(model: Path) -> int:
    """Token ids of a model, from its `config.json`."""
    size = json.loads((model / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    assert isinstance(size, int)
    return size


def prompts(workload: Workload, vocab: int, seed: str) -> list[list[int]]:
    """The prompts of one repetition: the same for every engine, others for another seed."""
    source = random.Random(f"{workload.name} {seed}")

    def tokens(count: int) -> list[int]:
        return [source.randrange(1, vocab) for _ in range(count)]

    shared = tokens(workload.shared)
    return [shared + tokens(workload.own) for _ in range(workload.requests)]


def timed(generate: Generate, batch: list[list[int]], new: int) -> float:
    """Seconds that a batch takes.

    Raises:
        RuntimeError: the engine made more or fewer tokens than it was asked for.
    """
    begin = time.perf_counter()
    made = generate(batch, new)
    seconds = time.perf_counter() - begin
    if made != len(batch) * new:
        raise RuntimeError(f"{len(batch)} requests of {new} tokens gave {made} tokens")
    return seconds


def measure(generate: Generate, workload: Workload, vocab: int, seed: str) -> float:
    """One repetition of a workload: its figure."""
    batch = prompts(workload, vocab, seed)
    if workload.figure == "decode":
        # A first token of another prompt costs as much, and leaves nothing in a prefix cache.
        first = timed(generate, prompts(workload, vocab, f"{seed} first"), 1)
        return (workload.new - 1) / (timed(generate, batch, workload.new) - first)
    seconds = timed(generate, batch, workload.new)
    if workload.figure == "prefill":
        return workload.prompt_len / seconds
    if workload.figure == "batch":
        return workload.requests * workload.new / seconds
    return seconds
