"""The decoders from GPT-NeoX to MPT in float64: layer norms, plain feed-forward layers.

One forward pass for all; `classic_families.py` says what each family's tensors are called and what
it computes differently.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import erf, log2
from typing import Any

import numpy as np
from classic_families import FAMILIES, Family, Shape
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]
Heads = tuple[Array, Array, Array]


def logits(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    """`[len(ids), vocab_size]` logits of the model that `config.json` describes."""
    family = FAMILIES[c["model_type"]](c)
    shape = family.shape(c)

    def linear(x: Array, name: str) -> Array:
        out: Array = x @ t[f"{name}.weight"].T + t.get(f"{name}.bias", 0.0)
        return out

    def norm(x: Array, name: str) -> Array:
        x = x - x.mean(-1, keepdims=True)
        scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + family.eps)
        out: Array = x * scale * t[f"{name}.weight"] + t.get(f"{name}.bias", 0.0)
        return out

    def attention(x: Array, i: int) -> Array:
        names = (family.qkv,) if isinstance(family.qkv, str) else family.qkv
        fused = np.concatenate([linear(x, name.format(i)) for name in names], -1)
        if family.clip:
            fused = np.clip(fused, -family.clip, family.clip)
        q, k, v = SPLITS[family.split](fused, shape)
        if family.rotary:
            q, k = (_rotate(y, *family.rotary) for y in (q, k))
        bias = 0.0 if family.alibi is None else family.alibi * _alibi(shape.heads, len(x))
        scale = family.scale or shape.head_dim**-0.5
        return linear(_attend(q, k, v, scale, bias), family.output.format(i))

    def feed_forward(x: Array, i: int) -> Array:
        inner = ACTIVATIONS[family.activation](linear(x, family.up.format(i)))
        return linear(inner, family.down.format(i))

    x = _embed(c, t, ids, family, norm)
    for i in range(family.num_layers):
        first = family.attention_norm.format(i)
        second = (family.feed_forward_norm or family.attention_norm).format(i)
        if family.parallel:
            x = x + attention(norm(x, first), i) + feed_forward(norm(x, second), i)
        elif family.post_norm:
            x = norm(x + attention(x, i), first)
            x = norm(x + feed_forward(x, i), second)
        else:
            x = x + attention(norm(x, first), i)
            x = x + feed_forward(norm(x, second), i)
    if family.norm:
        x = norm(x, family.norm)
    if "model.decoder.project_out.weight" in t:
        x = linear(x, "model.decoder.project_out")
    return linear(x, family.embedding if c["tie_word_embeddings"] else family.head)


def _embed(
    c: dict[str, Any],
    t: Tensors,
    ids: NDArray[np.int64],
    family: Family,
    norm: Callable[[Array, str], Array],
) -> Array:
    """The first layer's input: tokens, learned positions, BLOOM's norm."""
    x: Array = t[f"{family.embedding}.weight"][ids]
    if "model.decoder.project_in.weight" in t:
        x = x @ t["model.decoder.project_in.weight"].T
    if c["model_type"] == "opt":  # two rows before the first position's
        x = x + t["model.decoder.embed_positions.weight"][2 : len(ids) + 2]
    if c["model_type"] == "gpt_bigcode":
        x = x + t["transformer.wpe.weight"][: len(ids)]
    if c["model_type"] == "bloom":
        x = norm(x, "transformer.word_embeddings_layernorm")
    return x


def _grouped(fused: Array, shape: Shape) -> Heads:
    """For each key-value head: its query heads, the key, the value."""
    groups = fused.reshape(len(fused), shape.kv_heads, -1, shape.head_dim)
    q = groups[:, :, :-2].reshape(len(fused), shape.heads, shape.head_dim)
    return q, groups[:, :, -2], groups[:, :, -1]


def _stacked(fused: Array, shape: Shape) -> Heads:
    """All queries, all keys, all values."""
    heads = fused.reshape(len(fused), -1, shape.head_dim)
    q, k, v = np.split(heads, [shape.heads, shape.heads + shape.kv_heads], axis=1)
    return q, k, v


def _codegen(fused: Array, shape: Shape) -> Heads:
    """Four shards, each of queries, values and keys of a quarter of the heads."""
    shards = fused.reshape(len(fused), 4, 3, -1)
    q, v, k = (shards[:, :, i].reshape(len(fused), shape.heads, -1) for i in range(3))
    return q, k, v


def _rotate(x: Array, base: float, elements: int, neighbours: bool) -> Array:
    """Turn the first `elements` of each head by the token's position."""
    angles = np.outer(np.arange(len(x)), base ** (-np.arange(0, elements, 2) / elements))
    turn = np.exp(1j * angles)[:, None, :]
    out = x.copy()
    half = elements // 2
    first = slice(0, elements, 2) if neighbours else slice(0, half)
    second = slice(1, elements, 2) if neighbours else slice(half, elements)
    turned = (x[..., first] + 1j * x[..., second]) * turn
    out[..., first], out[..., second] = turned.real, turned.imag
    return out


def _alibi(heads: int, tokens: int) -> Array:
    """`[heads, tokens, tokens]`: minus slope times distance (arXiv:2108.12409, section 3)."""

    def slopes(count: int) -> list[float]:
        if log2(count).is_integer():
            return [2 ** (-8 / count * (i + 1)) for i in range(count)]
        below = 2 ** int(log2(count))
        return slopes(below) + slopes(2 * below)[0::2][: count - below]

    distance = np.arange(tokens)[None, :] - np.arange(tokens)[:, None]
    bias: Array = np.array(slopes(heads))[:, None, None] * distance
    return bias


def _attend(q: Array, k: Array, v: Array, scale: float, bias: Array | float) -> Array:
    """Causal attention over `[tokens, heads, head_dim]`."""
    tokens, heads, _ = q.shape
    k, v = (np.repeat(x, heads // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("qhd,khd->hqk", q, k) * scale + bias
    scores = np.where(np.tri(tokens, dtype=bool), scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out: Array = np.einsum("hqk,khd->qhd", weights, v).reshape(tokens, -1)
    return out


def _tanh_gelu(x: Array) -> Array:
    out: Array = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    return out


def _gelu(x: Array) -> Array:
    out: Array = 0.5 * x * (1 + np.vectorize(erf)(x / np.sqrt(2)))
    return out


def _relu(x: Array) -> Array:
    out: Array = np.maximum(x, 0)
    return out


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "gelu": _gelu,
    "gelu_new": _tanh_gelu,
    "gelu_pytorch_tanh": _tanh_gelu,
    "relu": _relu,
}

SPLITS: Mapping[str, Callable[[Array, Shape], Heads]] = {
    "grouped": _grouped,
    "stacked": _stacked,
    "codegen": _codegen,
}
