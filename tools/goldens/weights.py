"""Seeded weights, and writing a model folder the way checkpoints on the hub are laid out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import fp8
import mxfp4
import numpy as np
import torch
from case import Case
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, GPT2Config, PreTrainedModel

LOGIT_STD = 2.5
"""Target standard deviation of the logits: wide enough that the best token has a clear lead."""

# Standard deviation of a matrix's output for an input of unit variance. Queries and keys are large,
# so that attention is selective; what is written to the residual stream outweighs the embedding, so
# that a continuation depends on attention and does not merely repeat its last token.
GAINS = {
    "q_proj": 1.2, "k_proj": 1.2, "v_proj": 1.0, "o_proj": 1.5,
    "gate_proj": 1.4, "up_proj": 1.4, "down_proj": 1.5, "qkv_proj": 1.2, "gate_up_proj": 1.4,
    "c_attn": 1.6, "c_fc": 1.5, "c_proj": 1.6, "lm_head": LOGIT_STD,
    # Routers spread their scores; what several experts write is added up.
    "gate": 1.5, "router": 1.5, "shared_expert_gate": 1.5,
    "q_a_proj": 1.0, "q_b_proj": 1.4, "kv_a_proj_with_mqa": 1.0, "kv_b_proj": 1.2,
    "query_key_value": 1.4, "Wqkv": 1.4, "dense": 1.5, "out_proj": 1.5,
    "dense_h_to_4h": 1.5, "dense_4h_to_h": 1.5, "fc1": 1.5, "fc2": 1.5, "fc_in": 1.5, "fc_out": 1.5,
    "project_in": 1.0, "project_out": 1.0,
    "per_layer_model_projection": 1.0, "per_layer_input_gate": 1.4, "per_layer_projection": 1.5,
    "proj": 2.0,
}  # fmt: skip


# Heads are normed to be selective, BLOOM's embeddings to be outweighed.
NORM_GAINS = {"q_norm": 1.3, "k_norm": 1.3, "norms": 1.3, "word_embeddings_layernorm": 0.25}


def rng_for(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key`, the same on every machine."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


def _draw(case: Case, name: str, shape: tuple[int, ...], tied: bool) -> np.ndarray:
    """The value of one parameter; no bias is zero and no norm is one, so that a lost one shows."""
    noise = rng_for("weights", case.name, name).standard_normal(shape, dtype=np.float32)
    of_images = ("model.vision_tower.", "model.multi_modal_projector.", "model.embed_vision.")
    if name.startswith(of_images):
        return noise
    module, kind = [part for part in name.split(".") if not part.isdigit()][-2:]
    if len(shape) == 3:  # all experts of a layer: [experts, out, in], gpt-oss [experts, in, out]
        is_gpt_oss = case.config_class.__name__ == "GptOssConfig"
        return noise * np.float32(GAINS[kind] / np.sqrt(shape[1 if is_gpt_oss else 2]))
    if kind == "sinks":
        return noise
    if kind.endswith("bias"):
        return noise * np.float32(0.15)
    if kind in ("scale", "per_expert_scale"):  # Gemma 4's routers
        return 1 + np.float32(0.25) * noise
    family = case.config_class.__name__
    if "norm" in module and family.startswith("Gemma") and not family.startswith("Gemma4"):
        # These count from one. Outputs are normed large, so that they outweigh the embeddings.
        offset = {"q_norm": 0.3, "k_norm": 0.3, "norm": 1.0}.get(module, 0.0)
        return np.float32(0.25) * noise + np.float32(1.5 if module[:5] == "post_" else offset)
    if "norm" in module or module.startswith("ln_"):
        gain = NORM_GAINS.get(module, 1.0)
        if family.startswith("Gemma4") and module in ("q_norm", "k_norm"):
            # Scores are not scaled; the case of four layers adds up more rounding.
            gain = 0.8 if case.name == "gemma4" else 1.0
        return (1 + np.float32(0.25) * noise) * np.float32(gain)
    if module in ("wpe", "embed_positions"):
        return noise
    if module.startswith("embed_tokens") and family.startswith("Gemma"):
        return noise / np.float32(np.sqrt(shape[1]))  # the model scales it by that root
    if module in ("embed_tokens", "wte", "embed_in", "word_embeddings"):
        return noise * np.float32(LOGIT_STD / np.sqrt(shape[1]) if tied else 1.0)
    is_gpt2 = case.config_class is GPT2Config  # which stores [in, out]
    fan_in = shape[0] if is_gpt2 else shape[1]
    return noise * np.float32(GAINS[module] / np.sqrt(fan_in))


def build_model(case: Case) -> PreTrainedModel:
    """A model with seeded weights, float32 values already rounded to the case's dtype."""
    config = case.config()
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = _draw(case, name, tuple(parameter.shape), config.tie_word_embeddings)
            if case.mxfp4 and mxfp4.is_packed(name):
                value = mxfp4.dequantized(*mxfp4.quantized(value))
            if case.fp8 and fp8.is_packed(name):
                packed = fp8.quantized(torch.from_numpy(value))
                value = fp8.dequantized(*packed).numpy()
            parameter.copy_(torch.from_numpy(value))
        for name, buffer in model.named_buffers():
            if name.endswith("e_score_correction_bias"):
                noise = rng_for("weights", case.name, name).standard_normal(tuple(buffer.shape))
                buffer.copy_(torch.from_numpy(0.08 * noise))
            if name.endswith("layer_scalar"):
                noise = rng_for("weights", case.name, name).standard_normal(1)
                buffer.copy_(torch.from_numpy(0.8 + 0.1 * noise))
    model.to(getattr(torch, case.dtype))
    return model


def before_packing(case: Case) -> dict[str, torch.Tensor]:
    """What a case's weights in FP8 were drawn as."""
    model = AutoModelForCausalLM.from_config(case.config(), dtype=torch.float32)
    return {
        name: torch.from_numpy(_draw(case, name, tuple(parameter.shape), tied=False))
        for name, parameter in model.named_parameters()
        if fp8.is_packed(name)
    }


def save_model(case: Case, folder: Path) -> None:
    """Write `config.json`, `config.other.json`, the weights and `generation_config.json`."""
    model = build_model(case)
    total = sum(p.numel() * p.element_size() for p in model.state_dict().values())
    # A little above an equal share: a shard closes before the tensor that would overfill it.
    limit = total if case.num_shards == 1 else total * 5 // (case.num_shards * 4)
    original = not case.fused_experts
    model.save_pretrained(folder, max_shard_size=limit + 1, save_original_format=original)
    shards = list(folder.glob("model*.safetensors"))
    if len(shards) != case.num_shards:
        raise RuntimeError(f"{case.name}: {len(shards)} weight files, {case.num_shards} wanted")
    if case.original_gpt2_names:
        _to_original_gpt2(folder / "model.safetensors", model.config.n_positions)
    _write_configs(case, folder)


def _to_original_gpt2(path: Path, n_positions: int) -> None:
    """Rename and extend a GPT-2 file to what the first GPT-2 uploads hold."""
    tensors = {name.removeprefix("transformer."): value for name, value in load_file(path).items()}
    mask = torch.ones(n_positions, n_positions).tril().view(1, 1, n_positions, n_positions)
    layers = {name.split(".")[1] for name in tensors if name.startswith("h.")}
    tensors |= {f"h.{layer}.attn.bias": mask.clone() for layer in layers}
    save_file(tensors, path, metadata={"format": "pt"})


def _write_configs(case: Case, folder: Path) -> None:
    """`config.json` in the case's spelling, `config.other.json` in the other; both read alike."""
    path = folder / "config.json"
    v5 = json.loads(path.read_text())
    texts = {"v5": v5, "v4": _to_v4(v5, case)}
    read = {}
    for spelling, fields in texts.items():
        path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
        read[spelling] = AutoConfig.from_pretrained(folder).to_dict()
        _forget_what_only_v4_says(read[spelling])
    if read["v4"] != read["v5"]:
        different = {
            k: (read["v4"].get(k), v) for k, v in read["v5"].items() if read["v4"].get(k) != v
        }
        raise RuntimeError(f"{case.name}: the two spellings read differently: {different}")
    other = "v4" if case.spelling == "v5" else "v5"
    for name, spelling in (("config.json", case.spelling), ("config.other.json", other)):
        (folder / name).write_text(json.dumps(texts[spelling], indent=2, sort_keys=True) + "\n")


def _forget_what_only_v4_says(read: dict[str, Any]) -> None:
    """Remove what may differ between the spellings without a meaning for the model."""
    if "text_config" in read:
        _forget_what_only_v4_says(read["text_config"])
    for key in (
        "transformers_version",
        "max_window_layers",
        "n_ctx",
        "partial_rotary_factor",
        "hidden_activation",
        "rope_local_base_freq",
        "sliding_window_pattern",
        "seq_length",
    ):
        read.pop(key, None)
    read["dtype"] = read.get("dtype") or "float32"  # a file without a dtype: the default is meant
    (read.get("rope_parameters") or {}).pop("type", None)  # the oldest name of rope_type


def _to_v4(v5: dict[str, Any], case: Case) -> dict[str, Any]:
    """The same configuration as transformers 4 wrote it; Gemma 4's as it was published."""
    new = {"rope_parameters", "dtype", "layer_types"}
    if case.config_class.__name__.startswith("Gemma4"):
        new = {"dtype", "per_layer_config"}
    v4 = {k: v for k, v in v5.items() if k not in new}
    v4["transformers_version"] = "4.51.3"
    if "dtype" in v5:
        v4["torch_dtype"] = v5["dtype"]
    if "text_config" in v5:
        return {**v4, "text_config": _to_v4(v5["text_config"], case)}
    if "rope_parameters" in new & v5.keys():
        rope = dict(v5["rope_parameters"])
        rope = dict(rope.get("full_attention", rope))  # the sliding layers' is for v4_extra to say
        v4["rope_theta"] = rope.pop("rope_theta")
        if "partial_rotary_factor" in rope:
            v4["partial_rotary_factor"] = rope.pop("partial_rotary_factor")
        v4["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    for key, value in case.v4_extra.items():
        v4[key] = value
        if value is None:
            del v4[key]
        elif value is ...:  # an explicit null
            v4[key] = None
    return v4
