"""Llama and the rotary decoders after it in float64: one forward pass for all families."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import exact_moe
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


@dataclass(frozen=True)
class Family:
    """What its configuration does not say of a family."""

    block: str = "pre"
    """Where norms stand: "pre", "sandwich" (before and after), "glm4" (that, by
    other names), "post", or "parallel"."""
    norm: str = "rms"
    """ "rms", "rms+1" (the weight counts from one) or "layer"."""
    eps: str = "rms_norm_eps"
    interleaved: bool = False
    scaled_embeddings: bool = False
    plain_mlp: bool = False


GEMMA = Family("sandwich", "rms+1", scaled_embeddings=True)
COHERE = Family("parallel", "layer", "layer_norm_eps", interleaved=True)
FAMILIES = {
    "arcee": Family(plain_mlp=True),
    "cohere": COHERE,
    "cohere2": COHERE,
    "ernie4_5": Family(interleaved=True),
    "gemma": Family("pre", "rms+1", scaled_embeddings=True),
    "gemma2": GEMMA,
    "gemma3_text": GEMMA,
    "glm": Family(interleaved=True),
    "glm4": Family("glm4", interleaved=True),
    "gpt_oss": Family(),
    "granite": Family(),
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "olmo2": Family("post"),
    "olmo3": Family("post"),
    "olmoe": Family(),
    "phi3": Family(),
    "qwen2": Family(),
    "qwen2_moe": Family(),
    "qwen3": Family(),
    "qwen3_moe": Family(),
    "smollm3": Family(),
    "stablelm": Family("pre", "layer", "layer_norm_eps"),
    "starcoder2": Family("pre", "layer", "norm_epsilon", plain_mlp=True),
}


def forward(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    """Logits, `[len(ids), vocab_size]`."""
    model = _Model(FAMILIES[c["model_type"]], c, t, len(ids))
    x = t["model.embed_tokens.weight"][ids]
    x = x * (math.sqrt(c["hidden_size"]) if model.family.scaled_embeddings else 1.0)
    x = x * c.get("embedding_multiplier", 1.0)
    for layer in range(c["num_hidden_layers"]):
        x = model.block(x, layer)
    head = "model.embed_tokens" if c["tie_word_embeddings"] else "lm_head"
    logits = model.linear(model.norm(x, "model.norm"), head)
    logits = logits * c.get("logit_scale", 1.0) / c.get("logits_scaling", 1.0)
    if cap := c.get("final_logit_softcapping"):
        logits = cap * np.tanh(logits / cap)
    return logits


@dataclass
class _Model:
    family: Family
    c: dict[str, Any]
    t: Tensors
    tokens: int

    def linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self.t[f"{name}.weight"].T + self.t.get(f"{name}.bias", 0.0)
        return out

    def norm(self, x: Array, name: str) -> Array:
        if self.family.norm == "layer":
            x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c[self.family.eps])
        weight = self.t[f"{name}.weight"] + (self.family.norm == "rms+1")
        out: Array = x * weight + self.t.get(f"{name}.bias", 0.0)
        return out

    def block(self, x: Array, layer: int) -> Array:
        name = f"model.layers.{layer}"
        before = {
            "pre": ("input_layernorm", "post_attention_layernorm"),
            "sandwich": ("input_layernorm", "pre_feedforward_layernorm"),
            "glm4": ("input_layernorm", "post_attention_layernorm"),
            "post": (None, None),
            "parallel": ("input_layernorm", None),
        }[self.family.block]
        after = {
            "sandwich": ("post_attention_layernorm", "post_feedforward_layernorm"),
            "glm4": ("post_self_attn_layernorm", "post_mlp_layernorm"),
            "post": ("post_attention_layernorm", "post_feedforward_layernorm"),
        }.get(self.family.block, (None, None))
        parts: tuple[Callable[[Array], Array], ...] = (
            lambda h: self.attention(h, f"{name}.self_attn", layer),
            lambda h: self.mlp(h, f"{name}.mlp"),
        )
        if self.family.block == "parallel" or self.c.get("use_parallel_residual"):
            h = self.norm(x, f"{name}.input_layernorm")
            return x + parts[0](h) + parts[1](h)
        for part, norm, output_norm in zip(parts, before, after, strict=True):
            h = part(self.norm(x, f"{name}.{norm}") if norm else x)
            h = self.norm(h, f"{name}.{output_norm}") if output_norm else h
            x = x + h * self.c.get("residual_multiplier", 1.0)
        return x

    def mlp(self, x: Array, name: str) -> Array:
        if exact_moe.is_mixture(self.t, name):
            return exact_moe.feed_forward(self.c, self.t, name, x)
        if self.family.plain_mlp and self.c["hidden_act"] == "relu2":
            inner = np.maximum(self.linear(x, f"{name}.up_proj"), 0) ** 2
            return self.linear(inner, f"{name}.down_proj")
        if self.family.plain_mlp:
            return self.linear(_gelu_tanh(self.linear(x, f"{name}.c_fc")), f"{name}.c_proj")
        if f"{name}.gate_up_proj.weight" in self.t:
            gate, up = np.split(self.linear(x, f"{name}.gate_up_proj"), 2, axis=-1)
        else:
            gate, up = self.linear(x, f"{name}.gate_proj"), self.linear(x, f"{name}.up_proj")
        act = _gelu_tanh if self.family.scaled_embeddings else _silu
        return self.linear(act(gate) * up, f"{name}.down_proj")

    def attention(self, x: Array, name: str, layer: int) -> Array:
        c, heads, kv_heads = self.c, self.c["num_attention_heads"], self.c["num_key_value_heads"]
        head_dim = c.get("head_dim") or c["hidden_size"] // heads
        sizes = np.array([heads, kv_heads, kv_heads]) * head_dim
        if f"{name}.qkv_proj.weight" in self.t:
            q, k, v = np.split(self.linear(x, f"{name}.qkv_proj"), np.cumsum(sizes)[:-1], axis=-1)
        else:
            q, k, v = (self.linear(x, f"{name}.{part}_proj") for part in "qkv")
        if c["model_type"] in ("olmo2", "olmo3", "olmoe"):
            q, k = self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm")
        q, k, v = (h.reshape(self.tokens, -1, head_dim) for h in (q, k, v))
        if c["model_type"] in ("gemma3_text", "qwen3", "qwen3_moe"):
            q, k = self.norm(q, f"{name}.q_norm"), self.norm(k, f"{name}.k_norm")
        q, k = self.norm_each_head(q, name, "q"), self.norm_each_head(k, name, "k")
        if rope := self.rope(layer):
            q, k = (self.rotate(h, rope) for h in (q, k))
        scores = np.einsum("qhd,khd->hqk", q, np.repeat(k, heads // kv_heads, axis=1))
        scores = scores * self.scale(head_dim)
        if cap := c.get("attn_logit_softcapping"):
            scores = cap * np.tanh(scores / cap)
        distance = np.arange(self.tokens)[:, None] - np.arange(self.tokens)[None, :]
        window = c["sliding_window"] if self.is_windowed(layer) else self.tokens
        scores[:, (distance < 0) | (distance >= window)] = -np.inf
        sink = self.t.get(f"{name}.sinks", np.full(heads, -np.inf))[:, None, None]
        largest = np.maximum(scores.max(-1, keepdims=True), sink)
        weights = np.exp(scores - largest)
        weights /= weights.sum(-1, keepdims=True) + np.exp(sink - largest)
        out = np.einsum("hqk,khd->qhd", weights, np.repeat(v, heads // kv_heads, axis=1))
        return self.linear(out.reshape(self.tokens, -1), f"{name}.o_proj")

    def norm_each_head(self, x: Array, name: str, part: str) -> Array:
        """A layer norm with a weight for each head, where there are any."""
        weight = self.t.get(f"{name}.{part}_norm.weight", np.zeros(1))
        if f"{name}.{part}_layernorm.norms.0.weight" in self.t:
            norms = f"{name}.{part}_layernorm.norms"
            weight = np.stack([self.t[f"{norms}.{h}.weight"] for h in range(x.shape[1])])
        if weight.ndim == 1:
            return x
        x = x - x.mean(-1, keepdims=True)
        scale = np.sqrt((x * x).mean(-1, keepdims=True) + self.c[self.family.eps])
        out: Array = x / scale * weight
        return out

    def scale(self, head_dim: int) -> float:
        default: float = self.c.get("query_pre_attn_scalar", head_dim) ** -0.5
        return float(self.c.get("attention_multiplier", default))

    def is_windowed(self, layer: int) -> bool:
        """Whether a layer has the window."""
        c = self.c
        if not c.get("sliding_window") or not c.get("use_sliding_window", True):
            return False
        types = c.get("layer_types")
        return types is None or types[layer] == "sliding_attention"

    def rope(self, layer: int) -> dict[str, Any] | None:
        """The rotary settings of a layer, in the v5 spelling."""
        c = self.c
        if not (c.get("no_rope_layers") or [1] * (layer + 1))[layer]:
            return None
        if c["model_type"] == "cohere2" and c["layer_types"][layer] != "sliding_attention":
            return None
        settings: dict[str, Any] = c["rope_parameters"]
        if "full_attention" in settings:
            settings = settings[c["layer_types"][layer]]
        return settings

    def rotate(self, x: Array, rope: dict[str, Any]) -> Array:
        """Rotate the leading elements of each head."""
        dim = int(x.shape[-1] * rope.get("partial_rotary_factor", 1.0))
        angles = np.outer(np.arange(self.tokens), self.frequencies(rope, dim))[:, None, :]
        factor = _attention_factor(rope, self.c)
        cos, sin = np.cos(angles) * factor, np.sin(angles) * factor
        halves = (slice(0, dim, 2), slice(1, dim, 2))
        if not self.family.interleaved:
            halves = (slice(0, dim // 2), slice(dim // 2, dim))
        first, second = x[..., halves[0]], x[..., halves[1]]
        out = x.copy()
        out[..., halves[0]] = first * cos - second * sin
        out[..., halves[1]] = second * cos + first * sin
        return out

    def frequencies(self, rope: dict[str, Any], dim: int) -> Array:
        """Angle per position of each pair."""
        kind, theta = rope["rope_type"], rope["rope_theta"]
        plain: Array = theta ** (-np.arange(0, dim, 2) / dim)
        if kind == "linear":
            return plain / float(rope["factor"])
        if kind == "llama3":
            low, high = rope["low_freq_factor"], rope["high_freq_factor"]
            turns = rope["original_max_position_embeddings"] * plain / (2 * np.pi)
            # 1: fast, unscaled; 0: slow, divided by factor
            keep = np.clip((turns - low) / (high - low), 0, 1)
            ramp: Array = plain * (keep + (1 - keep) / rope["factor"])
            return ramp
        if kind == "longrope":
            long = self.tokens > rope["original_max_position_embeddings"]
            return plain / np.array(rope["long_factor" if long else "short_factor"])
        if kind == "yarn":
            context = rope["original_max_position_embeddings"]

            def pair(turns: float) -> float:
                """The pair that turns so many times in the original context."""
                return dim * math.log(context / (turns * 2 * math.pi)) / (2 * math.log(theta))

            first, last = pair(rope["beta_fast"]), pair(rope["beta_slow"])
            if rope.get("truncate", True):
                first, last = math.floor(first), math.ceil(last)
            first, last = max(first, 0), min(last, dim - 1)
            divided = np.clip((np.arange(dim // 2) - first) / (last - first), 0, 1)
            blended: Array = plain * (1 - divided + divided / rope["factor"])
            return blended
        return plain


def _attention_factor(rope: dict[str, Any], c: dict[str, Any]) -> float:
    """What rotated queries and keys are longer by."""
    if rope["rope_type"] == "yarn":
        over = [
            0.1 * rope.get(name, default) * math.log(rope["factor"]) + 1
            for name, default in (("mscale", 1.0), ("mscale_all_dim", 0.0))
        ]
        return over[0] / over[1]
    if rope["rope_type"] == "longrope":
        original = rope["original_max_position_embeddings"]
        return math.sqrt(1 + math.log(c["max_position_embeddings"] / original) / math.log(original))
    return 1.0


def _silu(x: Array) -> Array:
    out: Array = x / (1 + np.exp(-x))
    return out


def _gelu_tanh(x: Array) -> Array:
    out: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return out
