"""What a workload would take if the machine's limits were all that held it up.

A phase takes the longer of its arithmetic at the peak rate and of its reads at the memory's
bandwidth:

    prefill        all prompts' tokens, weights read once
    decode step    one token for each request, weights and the key/value cache read once

Weights in int8 are computed on at the int8 peak, with activations in int8; so are those in int4.
Attention is computed in floating point.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from workloads import Workload

WEIGHT_BYTES: Final = {"bf16": 2.0, "int8": 1.0, "int4": 0.5 + 2 / 32}
"""Bytes of a weight; int4 with a 16-bit scale for each 32 weights, int8 with one a row."""

KV_BYTES: Final = 2
"""Bytes of a number in the key/value cache."""


@dataclass(frozen=True)
class Limits:
    """Rates of all threads together, a second.

    Args:
        read_bytes: Bytes read from memory.
        float_ops: Floating-point operations at the precision of bfloat16 weights or better.
        int8_ops: Operations of int8 dot products, or `float_ops` where there are none.
    """

    read_bytes: float
    float_ops: float
    int8_ops: float

    @classmethod
    def median(cls, many: list[Limits]) -> Limits:
        """The medians of several probes."""
        return cls(
            median(one.read_bytes for one in many),
            median(one.float_ops for one in many),
            median(one.int8_ops for one in many),
        )


class Probe:
    """Measures the limits with `limits.c`, compiled for this machine.

    Args:
        folder: Where the program goes.
        threads: Threads to measure with.
    """

    def __init__(self, folder: Path, threads: int) -> None:
        self._program, self._threads = folder / "limits", threads
        source = Path(__file__).with_name("limits.c")
        command = ["cc", "-O3", "-march=native", "-pthread", str(source), "-o", str(self._program)]
        try:
            subprocess.run(command, check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"no limits without a C compiler: {error}", file=sys.stderr)
            self._threads = 0

    def measure(self) -> Limits | None:
        """Takes about a second; `None` where there was no compiler."""
        if not self._threads:
            return None
        command = [str(self._program), str(self._threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        rates: dict[str, float] = json.loads(done.stdout)
        floats = max(rates["float32_ops"], rates["bfloat16_ops"])
        return Limits(rates["read_bytes"], floats, max(rates["int8_ops"], floats))


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a dense decoder with gated feed-forward layers.

    Args:
        layers: Number of layers.
        layer_weights: Weights of one layer's matrices.
        head_weights: Weights of the output matrix.
        query_size: Width of all query heads together.
        kv_size: Width of all key heads, and of all value heads, together.
    """

    layers: int
    layer_weights: int
    head_weights: int
    query_size: int
    kv_size: int

    @classmethod
    def of(cls, model: Path) -> ModelShape:
        """Reads `config.json`."""
        config: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
        hidden, heads = config["hidden_size"], config["num_attention_heads"]
        head_dim = config.get("head_dim") or hidden // heads
        query, kv = heads * head_dim, config["num_key_value_heads"] * head_dim
        layer = 2 * hidden * (query + kv) + 3 * hidden * config["intermediate_size"]
        head = config["vocab_size"] * hidden
        return cls(config["num_hidden_layers"], layer, head, query, kv)

    def phase_seconds(
        self, limits: Limits, weights: str, rows: int, logits: int, pairs: float, cached: int
    ) -> float:
        """Shortest time of one pass through the model.

        Args:
            limits: The machine's.
            weights: Their format.
            rows: Tokens computed.
            logits: Those of them whose logits are computed.
            pairs: Query and key pairs of attention.
            cached: Tokens whose keys and values are read.
        """
        peak = limits.float_ops if weights == "bf16" else limits.int8_ops
        linear = 2 * (self.layers * self.layer_weights * rows + self.head_weights * logits)
        attention = 4 * self.layers * self.query_size * pairs
        compute = linear / peak + attention / limits.float_ops
        matrices = self.layers * self.layer_weights + self.head_weights
        cache = 2 * self.layers * self.kv_size * cached
        read = WEIGHT_BYTES[weights] * matrices + KV_BYTES * cache
        return max(compute, read / limits.read_bytes)


def limit_value(
    workload: Workload, shape: ModelShape, weights: str, limits: Limits
) -> float | None:
    """The best figure the machine allows; `None` for a start-up, which other things bound."""
    if workload.name == "startup":
        return None
    requests, shared, own = workload.requests, workload.shared, workload.own
    rows = shared + requests * own
    pairs = shared**2 / 2 + requests * (shared * own + own**2 / 2)
    prefill = shape.phase_seconds(limits, weights, rows, requests, pairs, rows)
    decode = 0.0
    for made in range(1, workload.new):
        pairs = requests * (workload.prompt_len + made)
        cached = shared + requests * (own + made)
        decode += shape.phase_seconds(limits, weights, requests, requests, pairs, cached)
    if workload.figure == "prefill":
        return workload.prompt_len / prefill
    if workload.figure == "decode":
        return (workload.new - 1) / decode
    if workload.figure == "batch":
        return requests * workload.new / (prefill + decode)
    return prefill + decode
