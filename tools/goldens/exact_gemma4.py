"""Gemma 4 (text) in NumPy and float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import exact_moe
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def gemma4(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    """Logits, `[len(ids), vocab_size]`."""
    model = _Model(c, t, len(ids))
    x = t["model.embed_tokens.weight"][ids] * math.sqrt(c["hidden_size"])
    inputs = model.layer_inputs(x, ids)
    for layer in range(c["num_hidden_layers"]):
        x = model.layer(x, layer, None if inputs is None else inputs[:, layer])
    logits: Array = model.norm(x, "model.norm") @ t["model.embed_tokens.weight"].T
    if cap := c.get("final_logit_softcapping"):
        logits = cap * np.tanh(logits / cap)
    return logits


@dataclass
class _Model:
    c: dict[str, Any]
    t: Tensors
    tokens: int
    shared: dict[str, tuple[Array, Array]] = field(default_factory=dict)
    """Keys and values of the last layer of each type that has its own."""

    def linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self.t[f"{name}.weight"].T
        return out

    def norm(self, x: Array, name: str | None) -> Array:
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"])
        return x * self.t[f"{name}.weight"] if name else x

    def layer_inputs(self, x: Array, ids: NDArray[np.int64]) -> Array | None:
        """What each layer reads besides, `[tokens, layers, size]`."""
        size = self.c.get("hidden_size_per_layer_input")
        if not size:
            return None
        projected = self.linear(x, "model.per_layer_model_projection")
        projected = projected / math.sqrt(self.c["hidden_size"])
        projected = projected.reshape(self.tokens, -1, size)
        projected = self.norm(projected, "model.per_layer_projection_norm")
        own = self.t["model.embed_tokens_per_layer.weight"][ids] * math.sqrt(size)
        out: Array = (projected + own.reshape(projected.shape)) / math.sqrt(2)
        return out

    def layer(self, x: Array, layer: int, own: Array | None) -> Array:
        name = f"model.layers.{layer}"
        h = self.attention(self.norm(x, f"{name}.input_layernorm"), f"{name}.self_attn", layer)
        x = x + self.norm(h, f"{name}.post_attention_layernorm")
        h = self.mlp(self.norm(x, f"{name}.pre_feedforward_layernorm"), f"{name}.mlp")
        if f"{name}.router.scale" in self.t:
            h = self.norm(h, f"{name}.post_feedforward_layernorm_1") + self.experts(x, name)
        x = x + self.norm(h, f"{name}.post_feedforward_layernorm")
        if own is not None:
            h = _gelu_tanh(self.linear(x, f"{name}.per_layer_input_gate")) * own
            h = self.linear(h, f"{name}.per_layer_projection")
            x = x + self.norm(h, f"{name}.post_per_layer_input_norm")
        out: Array = x * self.t[f"{name}.layer_scalar"]
        return out

    def mlp(self, x: Array, name: str) -> Array:
        gate = _gelu_tanh(self.linear(x, f"{name}.gate_proj"))
        return self.linear(gate * self.linear(x, f"{name}.up_proj"), f"{name}.down_proj")

    def experts(self, x: Array, name: str) -> Array:
        """The experts' part, normed."""
        router = self.norm(x, None) * self.t[f"{name}.router.scale"]
        logits = self.linear(router / math.sqrt(self.c["hidden_size"]), f"{name}.router.proj")
        scores = np.exp(logits - logits.max(-1, keepdims=True))
        scores = np.where(exact_moe.largest(scores, self.c["top_k_experts"]), scores, 0)
        scores /= scores.sum(-1, keepdims=True)
        weights = scores * self.t[f"{name}.router.per_expert_scale"]
        x = self.norm(x, f"{name}.pre_feedforward_layernorm_2")
        out = np.zeros_like(x)
        for expert in range(self.c["num_experts"]):
            out += weights[:, expert, None] * self.mlp(x, f"{name}.experts.{expert}")
        return self.norm(out, f"{name}.post_feedforward_layernorm_2")

    def attention(self, x: Array, name: str, layer: int) -> Array:
        c, heads, kind = self.c, self.c["num_attention_heads"], self.c["layer_types"][layer]
        own: dict[str, int] = c.get("per_layer_config", {}).get(str(layer), {})
        head_dim = own.get("head_dim", c["head_dim"])
        rope = c["rope_parameters"][kind]

        def split(h: Array) -> Array:
            return h.reshape(self.tokens, -1, head_dim)

        q = self.norm(split(self.linear(x, f"{name}.q_proj")), f"{name}.q_norm")
        q = self.rotate(q, rope)
        if f"{name}.k_proj.weight" in self.t:
            raw = split(self.linear(x, f"{name}.k_proj"))
            k = self.rotate(self.norm(raw, f"{name}.k_norm"), rope)
            if f"{name}.v_proj.weight" in self.t:
                raw = split(self.linear(x, f"{name}.v_proj"))
            self.shared[kind] = (k, self.norm(raw, None))
        k, v = (np.repeat(h, heads // h.shape[1], axis=1) for h in self.shared[kind])
        scores = np.einsum("qhd,khd->hqk", q, k)
        distance = np.arange(self.tokens)[:, None] - np.arange(self.tokens)[None, :]
        windowed = kind == "sliding_attention" and c.get("use_sliding_window", True)
        window = c["sliding_window"] if windowed else self.tokens
        scores[:, (distance < 0) | (distance >= window)] = -np.inf
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        out = np.einsum("hqk,khd->qhd", weights, v)
        return self.linear(out.reshape(self.tokens, -1), f"{name}.o_proj")

    def rotate(self, x: Array, rope: dict[str, Any]) -> Array:
        """Rotate each head's pairs of halves; with the proportional rule the first pairs alone."""
        half = x.shape[-1] // 2
        frequencies = rope["rope_theta"] ** (-np.arange(half) / half)
        if rope["rope_type"] == "proportional":
            turning = int(rope["partial_rotary_factor"] * half)
            frequencies[turning:] = 0
            frequencies /= rope.get("factor", 1.0)
        angles = np.outer(np.arange(self.tokens), frequencies)[:, None, :]
        first, second = x[..., :half], x[..., half:]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


def _gelu_tanh(x: Array) -> Array:
    out: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return out
