"""DeepSeek's latent attention in NumPy and float64."""

from __future__ import annotations

from typing import Any

import numpy as np
from exact_moe import feed_forward
from numpy.typing import NDArray

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def deepseek(c: dict[str, Any], t: Tensors, ids: NDArray[np.int64]) -> Array:
    """`[len(ids), vocab_size]` logits."""

    def norm(x: Array, name: str, eps: float) -> Array:
        out: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * t[f"{name}.weight"]
        return out

    x = t["model.embed_tokens.weight"][ids]
    for i in range(c["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm", c["rms_norm_eps"])
        x = x + _attention(c, t, f"{layer}.self_attn", h, norm)
        h = norm(x, f"{layer}.post_attention_layernorm", c["rms_norm_eps"])
        x = x + feed_forward(c, t, f"{layer}.mlp", h)
    out: Array = norm(x, "model.norm", c["rms_norm_eps"]) @ t["lm_head.weight"].T
    return out


def _attention(c: dict[str, Any], t: Tensors, name: str, h: Array, norm: Any) -> Array:
    tokens, heads = len(h), c["num_attention_heads"]
    rest, turning, value = c["qk_nope_head_dim"], c["qk_rope_head_dim"], c["v_head_dim"]
    frequency, length, scale = _yarn(c, turning)
    angles = np.outer(np.arange(tokens), frequency)[:, None, :]

    def rotate(x: Array) -> Array:
        a, b = x[..., 0::2], x[..., 1::2]
        cos, sin = np.cos(angles) * length, np.sin(angles) * length
        return np.stack([a * cos - b * sin, b * cos + a * sin], -1).reshape(x.shape)

    if c.get("q_lora_rank"):
        low = norm(h @ t[f"{name}.q_a_proj.weight"].T, f"{name}.q_a_layernorm", 1e-6)
        q = low @ t[f"{name}.q_b_proj.weight"].T
    else:
        q = h @ t[f"{name}.q_proj.weight"].T
    q = q.reshape(tokens, heads, rest + turning)
    latent, shared = np.split(h @ t[f"{name}.kv_a_proj_with_mqa.weight"].T, [c["kv_lora_rank"]], -1)
    latent = norm(latent, f"{name}.kv_a_layernorm", 1e-6)
    kv = (latent @ t[f"{name}.kv_b_proj.weight"].T).reshape(tokens, heads, rest + value)
    scores = np.einsum("qhd,khd->hqk", q[..., :rest], kv[..., :rest])
    scores += np.einsum("qhd,kd->hqk", rotate(q[..., rest:]), rotate(shared[:, None])[:, 0])
    scores *= scale / np.sqrt(rest + turning)
    scores[:, np.triu(np.ones((tokens, tokens), bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    attended = np.einsum("hqk,khd->qhd", weights, kv[..., rest:]).reshape(tokens, heads * value)
    out: Array = attended @ t[f"{name}.o_proj.weight"].T
    return out


def _yarn(c: dict[str, Any], dim: int) -> tuple[Array, float, float]:
    """Frequencies of the pairs, the factor on cosines and sines, the factor on scores."""
    rope = c.get("rope_parameters") or {
        **(c.get("rope_scaling") or {}),
        "rope_theta": c["rope_theta"],
    }
    theta = rope["rope_theta"]
    frequency: Array = theta ** (-np.arange(0, dim, 2) / dim)
    if (rope.get("rope_type") or rope.get("type") or "default") == "default":
        return frequency, 1.0, 1.0

    def turning(turns: float) -> float:
        """The pair that turns so often in the original context."""
        return float(
            dim
            * np.log(rope["original_max_position_embeddings"] / (turns * 2 * np.pi))
            / (2 * np.log(theta))
        )

    def growth(scale: float) -> float:
        return float(0.1 * scale * np.log(rope["factor"]) + 1)

    first = max(np.floor(turning(rope["beta_fast"])), 0)
    last = min(np.ceil(turning(rope["beta_slow"])), dim - 1)
    divided = np.clip((np.arange(dim // 2) - first) / max(last - first, 0.001), 0, 1)
    frequency = frequency * (1 - divided) + frequency / rope["factor"] * divided
    all_dim = rope["mscale_all_dim"]
    return frequency, growth(rope["mscale"]) / growth(all_dim), growth(all_dim) ** 2
