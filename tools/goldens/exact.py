"""The same models once more, in NumPy and float64, from the definitions and not from transformers.

`make_goldens.py` measures with it how far the float32 references are from the exact values, and
that every tensor and every setting of a case shows in its references. Slow and plain on purpose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load_file

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def load(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """`config.json` and all tensors as float64, GPT-2 names with the `transformer.` prefix."""
    config = json.loads((folder / "config.json").read_text())
    tensors: Tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, value in load_file(path).items():
            if config["model_type"] == "gpt2" and not name.startswith("transformer."):
                name = f"transformer.{name}"
            if not name.endswith(".attn.bias"):  # GPT-2's stored causal mask
                tensors[name] = value.double().numpy()
    return config, tensors


def logprobs(config: dict[str, Any], tensors: Tensors, ids: list[int]) -> Array:
    """`[len(ids), vocab_size]` log probabilities of the next token."""
    forward = _gpt2 if config["model_type"] == "gpt2" else _llama
    logits = forward(config, tensors, np.array(ids))
    logits = logits - logits.max(-1, keepdims=True)
    result: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return result


def _llama(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    hidden, heads, kv_heads = c["hidden_size"], c["num_attention_heads"], c["num_key_value_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    window = c.get("sliding_window") if c.get("use_sliding_window", True) else None
    angles = np.outer(np.arange(len(ids)), _inverse_frequencies(c, head_dim))
    cos, sin = np.cos(angles)[:, None, :], np.sin(angles)[:, None, :]

    def linear(x: Array, name: str) -> Array:
        out: Array = x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0.0)
        return out

    def norm(x: Array, name: str) -> Array:
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + c["rms_norm_eps"])
        out: Array = x * scale * t.get(f"{name}.weight", 1.0)
        return out

    def heads_of(x: Array, name: str, count: int) -> Array:
        """Project and split into heads: [tokens, count, head_dim]."""
        return linear(x, name).reshape(len(ids), count, head_dim)

    def rotate(x: Array) -> Array:
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)

    x = t["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        attn = f"{layer}.self_attn"
        h = norm(x, f"{layer}.input_layernorm")
        q, k = heads_of(h, f"{attn}.q_proj", heads), heads_of(h, f"{attn}.k_proj", kv_heads)
        if f"{attn}.q_norm.weight" in t:
            q, k = norm(q, f"{attn}.q_norm"), norm(k, f"{attn}.k_norm")
        v = heads_of(h, f"{attn}.v_proj", kv_heads)
        x = x + linear(_attention(rotate(q), rotate(k), v, window), f"{attn}.o_proj")
        h = norm(x, f"{layer}.post_attention_layernorm")
        gate = linear(h, f"{layer}.mlp.gate_proj")
        up = linear(h, f"{layer}.mlp.up_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * up, f"{layer}.mlp.down_proj")
    out = norm(x, "model.norm")
    name = "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head"
    return linear(out, name)


def _gpt2(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    def linear(x: Array, name: str) -> Array:
        out: Array = x @ t[f"{name}.weight"] + t[f"{name}.bias"]
        return out

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + c["layer_norm_epsilon"])
        out: Array = x * scale * t[f"{name}.weight"] + t[f"{name}.bias"]
        return out

    x = t["transformer.wte.weight"][ids] + t["transformer.wpe.weight"][: len(ids)]
    for i in range(c["n_layer"]):
        layer = f"transformer.h.{i}"
        qkv = linear(norm(x, f"{layer}.ln_1"), f"{layer}.attn.c_attn")
        q, k, v = (part.reshape(len(ids), c["n_head"], -1) for part in np.split(qkv, 3, axis=-1))
        x = x + linear(_attention(q, k, v, None), f"{layer}.attn.c_proj")
        h = linear(norm(x, f"{layer}.ln_2"), f"{layer}.mlp.c_fc")
        gelu = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
        x = x + linear(gelu, f"{layer}.mlp.c_proj")
    out: Array = norm(x, "transformer.ln_f") @ t["transformer.wte.weight"].T
    return out


def _attention(q: Array, k: Array, v: Array, window: int | None) -> Array:
    """Causal attention over `[tokens, heads, head_dim]`; `window` counts the token itself."""
    tokens, heads, head_dim = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(head_dim)
    distance = np.arange(tokens)[:, None] - np.arange(tokens)[None, :]
    hidden = (distance < 0) | (distance >= (window or tokens))
    scores[:, hidden] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out: Array = np.einsum("hqk,khd->qhd", weights, v).reshape(tokens, heads * head_dim)
    return out


def _inverse_frequencies(c: dict[str, Any], head_dim: int) -> Array:
    """Angle per position of each pair of dimensions, from either spelling of the rope settings."""
    rope = c.get("rope_parameters") or {
        **(c.get("rope_scaling") or {}),
        "rope_theta": c["rope_theta"],
    }
    kind = rope.get("rope_type") or rope.get("type") or "default"
    frequency: Array = rope["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)
    if kind == "linear":
        return frequency / float(rope["factor"])
    if kind == "llama3":
        low, high = rope["low_freq_factor"], rope["high_freq_factor"]
        turns = rope["original_max_position_embeddings"] * frequency / (2 * np.pi)
        keep = np.clip(
            (turns - low) / (high - low), 0, 1
        )  # 1: fast, unscaled; 0: slow, divided by factor
        blended: Array = frequency * (keep + (1 - keep) / rope["factor"])
        return blended
    return frequency
