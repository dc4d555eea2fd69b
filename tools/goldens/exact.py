"""The same models once more, in NumPy and float64, from the definitions and not from transformers.

`make_goldens.py` measures with it how far the float32 references are from the exact values, and
that every tensor and every setting of a case shows in its references. Slow and plain on purpose.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import exact_decoders
import numpy as np
from classic_families import FAMILIES
from exact_classics import logits as classic_logits
from exact_gemma4 import gemma4
from exact_latent import deepseek
from exact_moe import hub_names
from numpy.typing import NDArray
from safetensors.torch import load_file

Array = NDArray[np.float64]
Tensors = dict[str, Array]


def load(folder: Path) -> tuple[dict[str, Any], Tensors]:
    """The configuration in transformers 5's spelling, and all tensors as float64.

    GPT-2's names have the `transformer.` prefix.
    """
    configs = [json.loads((folder / f"config{other}.json").read_text()) for other in ("", ".other")]
    config: dict[str, Any] = next(config for config in configs if "torch_dtype" not in config)
    tensors: Tensors = {}
    for path in sorted(folder.glob("model*.safetensors")):
        for name, value in load_file(path).items():
            if config["model_type"] == "gpt2" and not name.startswith("transformer."):
                name = f"transformer.{name}"
            name = name.removeprefix("language_model.").replace("model.language_model.", "model.")
            if not name.endswith(".attn.bias"):  # GPT-2's stored causal mask
                tensors[name] = value.double().numpy()
    if "text_config" in config:
        config = config["text_config"]
        images = ("vision_tower.", "multi_modal_projector.", "embed_vision.")
        of_text = {k for k in tensors if not k.removeprefix("model.").startswith(images)}
        tensors = {k: v for k, v in tensors.items() if k in of_text}
    return config, hub_names(tensors)


def logprobs(config: dict[str, Any], tensors: Tensors, ids: list[int]) -> Array:
    """`[len(ids), vocab_size]` log probabilities of the next token."""
    own = {"gpt2": _gpt2, "deepseek_v2": deepseek, "deepseek_v3": deepseek}
    own |= {"gemma4_text": gemma4, "gemma4_unified_text": gemma4}
    forwards = {**own, **dict.fromkeys(FAMILIES, classic_logits)}
    forward = forwards.get(config["model_type"], exact_decoders.forward)
    logits = forward(config, tensors, np.array(ids))
    logits = logits - logits.max(-1, keepdims=True)
    result: Array = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return result


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
