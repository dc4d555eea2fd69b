"""Mixtures of experts in NumPy and float64: routing, and one expert after another."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]

_MIXTRAL = {"w1": "gate_proj", "w2": "down_proj", "w3": "up_proj"}


def hub_names(tensors: Tensors) -> Tensors:
    """The same experts as `mlp.experts.N.gate_proj.weight`, however the checkpoint has them."""
    out: Tensors = {}
    for name, value in tensors.items():
        name = name.replace(".block_sparse_moe.", ".mlp.")
        name = re.sub(r"\.(w[123])\.weight$", lambda m: f".{_MIXTRAL[m[1]]}.weight", name)
        if f"{name}_bias" in tensors:  # gpt-oss's, as they are
            out[name] = value
        elif name.endswith(".experts.gate_up_proj"):
            for i, (gate, up) in enumerate(np.split(matrix, 2) for matrix in value):
                out[name.replace("gate_up_proj", f"{i}.gate_proj.weight")] = gate
                out[name.replace("gate_up_proj", f"{i}.up_proj.weight")] = up
        elif name.endswith(".experts.down_proj"):
            for i, matrix in enumerate(value):
                out[name.replace("down_proj", f"{i}.down_proj.weight")] = matrix
        else:
            out[name] = value
    return out


def is_mixture(t: Tensors, name: str) -> bool:
    """Whether the feed-forward layer `name` has a router."""
    return f"{name}.gate.weight" in t or f"{name}.router.weight" in t


def gated(t: Tensors, name: str, x: Array) -> Array:
    """A feed-forward layer of three matrices, with biases where there are any."""

    def linear(x: Array, part: str) -> Array:
        out: Array = x @ t[f"{name}.{part}.weight"].T + t.get(f"{name}.{part}.bias", 0.0)
        return out

    gate = linear(x, "gate_proj")
    return linear(gate / (1 + np.exp(-gate)) * linear(x, "up_proj"), "down_proj")


def feed_forward(c: dict[str, Any], t: Tensors, name: str, x: Array) -> Array:
    """The feed-forward layer `name`: a mixture where it has a router, dense elsewhere."""
    if not is_mixture(t, name):
        return gated(t, name, x)
    if c["model_type"] == "gpt_oss":
        return _gpt_oss(c, t, name, x)
    logits = x @ t[f"{name}.gate.weight"].T
    weights = _route(c, logits, t.get(f"{name}.gate.e_score_correction_bias"))
    out = np.zeros_like(x)
    for expert in range(weights.shape[1]):
        rows = weights[:, expert] != 0
        out[rows] += weights[rows, expert, None] * gated(t, f"{name}.experts.{expert}", x[rows])
    if f"{name}.shared_expert_gate.weight" in t:
        open_ = 1 / (1 + np.exp(-x @ t[f"{name}.shared_expert_gate.weight"].T))
        out += open_ * gated(t, f"{name}.shared_expert", x)
    if f"{name}.shared_experts.gate_proj.weight" in t:
        out += gated(t, f"{name}.shared_experts", x)
    return out


def _gpt_oss(c: dict[str, Any], t: Tensors, name: str, x: Array) -> Array:
    """Biased experts, `[in, out]` matrices, gates and ups in turn, an activation that clamps."""
    logits = x @ t[f"{name}.router.weight"].T + t[f"{name}.router.bias"]
    logits = np.where(largest(logits, c["num_experts_per_tok"]), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out, experts, limit = np.zeros_like(x), f"{name}.experts", c["swiglu_limit"]
    for expert in range(weights.shape[1]):
        both = x @ t[f"{experts}.gate_up_proj"][expert] + t[f"{experts}.gate_up_proj_bias"][expert]
        gate, up = np.minimum(both[:, 0::2], limit), np.clip(both[:, 1::2], -limit, limit)
        inner = (up + 1) * gate / (1 + np.exp(-c["swiglu_alpha"] * gate))
        y = inner @ t[f"{experts}.down_proj"][expert] + t[f"{experts}.down_proj_bias"][expert]
        out += weights[:, expert, None] * y
    return out


def _route(c: dict[str, Any], logits: Array, bias: Array | None) -> Array:
    """`[rows, experts]` weights, zero where an expert is not chosen. A bias goes with sigmoids."""
    if bias is None:
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        choice, of_group = scores, 1
    else:
        scores = 1 / (1 + np.exp(-logits))
        choice, of_group = scores + bias, 2
    if c["model_type"] == "deepseek_v3" or c.get("topk_method") == "group_limited_greedy":
        groups = choice.reshape(len(choice), c["n_group"], -1)
        best = np.sort(groups, -1)[..., -of_group:].sum(-1)
        kept = largest(best, c["topk_group"])[..., None]
        choice = np.where(kept, groups, -np.inf).reshape(choice.shape)
    weights: Array = np.where(largest(choice, c["num_experts_per_tok"]), scores, 0)
    if c.get("norm_topk_prob", c["model_type"] == "mixtral"):
        weights /= weights.sum(-1, keepdims=True)
    return weights * c.get("routed_scaling_factor", 1.0)


def largest(values: Array, count: int) -> NDArray[np.bool_]:
    """Which of each row's values are among its `count` largest."""
    ranks = np.argsort(np.argsort(-values, axis=-1), axis=-1)
    out: NDArray[np.bool_] = ranks < count
    return out
