"""Checks on finished model folders: are the references right, and would they catch a mistake?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exact
import numpy as np
from exact import Array, Tensors

MAX_ERROR = 5e-5
"""Largest distance of a stored value from its float64 value: half of what tests allow."""

MIN_EFFECT = 1e-2
"""A lost tensor or setting must move some stored value by this: 100 times what tests allow."""

NEUTRAL = {
    "attention_multiplier": 1.0,
    "attn_logit_softcapping": None,
    "embedding_multiplier": 1.0,
    "final_logit_softcapping": None,
    "logit_scale": 1.0,
    "logits_scaling": 1.0,
    "no_rope_layers": None,
    "query_pre_attn_scalar": 256,
    "residual_multiplier": 1.0,
}
"""Settings some families have, and what they are where they change nothing."""


def check_folder(folder: Path, reference: dict[str, Any]) -> tuple[float, float]:
    """Return the largest error of the stored values, and the least effect of any mistake tried."""
    config, tensors = exact.load(folder)
    error = max(_distance(config, tensors, prompt) for prompt in reference["prompts"])
    if error > MAX_ERROR:
        raise RuntimeError(f"{folder.name}: a stored value is {error:.1e} from the float64 value")
    longest = max(reference["prompts"], key=lambda prompt: len(prompt["prompt_token_ids"]))
    effects = {
        what: _distance(wrong_config, wrong_tensors, longest)
        for what, wrong_config, wrong_tensors in _mistakes(config, tensors)
    }
    for what, effect in effects.items():
        if effect < MIN_EFFECT:
            raise RuntimeError(f"{folder.name}: {what} moves the references by {effect:.1e} only")
    return error, min(effects.values())


def _distance(config: dict[str, Any], tensors: Tensors, prompt: dict[str, Any]) -> float:
    """Largest difference between the stored values of one prompt and the float64 ones."""
    ids = prompt["prompt_token_ids"] + prompt["greedy_token_ids"]
    table: Array = exact.logprobs(config, tensors, ids[:-1])
    stored = np.concatenate([prompt["prompt_logprobs"], prompt["greedy_logprobs"]])
    chosen = table[np.arange(len(ids) - 1), ids[1:]]
    top = table[len(prompt["prompt_token_ids"]) - 1, prompt["top5_token_ids"]]
    return float(max(np.abs(chosen - stored).max(), np.abs(top - prompt["top5_logprobs"]).max()))


def _rope_mistakes(rope: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every setting of rotary positions ignored; those of each layer type one by one."""
    if "full_attention" in rope:
        for layer_type, settings in rope.items():
            for what, wrong in _rope_mistakes(settings):
                yield f"{what} of {layer_type}", {**rope, layer_type: wrong}
    elif rope:
        if rope["rope_type"] not in ("default", "dynamic"):  # dynamic: at its original length
            yield "ignoring rope scaling", {**rope, "rope_type": "default"}
        if rope.get("partial_rotary_factor", 1.0) != 1.0 and rope["rope_type"] == "default":
            yield "rotating whole heads", {**rope, "partial_rotary_factor": 1.0}
        yield "another rope_theta", {**rope, "rope_theta": rope["rope_theta"] * 2}


def _mistakes(
    config: dict[str, Any], tensors: Tensors
) -> Iterator[tuple[str, dict[str, Any], Tensors]]:
    """Every tensor left at its default (norms one, others zero), every special setting ignored."""
    for name, value in tensors.items():
        if name.endswith("k_proj.bias") and config["model_type"] == "opt":
            continue  # without rotation it adds the same to all scores of a query
        is_norm = name.endswith(".weight") and ("norm" in name or ".ln_" in name)
        count_from_one = config["model_type"] in ("gemma", "gemma2", "gemma3_text")
        is_norm = is_norm and not count_from_one
        yield f"losing {name}", config, {**tensors, name: np.full_like(value, float(is_norm))}
    rope_parameters = None if config.get("alibi") else config.get("rope_parameters")
    for what, rope in _rope_mistakes(rope_parameters or {}):
        yield what, {**config, "rope_parameters": rope}, tensors
    for name, wrong in NEUTRAL.items():
        if config.get(name) not in (None, wrong):
            yield f"ignoring {name}", {**config, name: wrong}, tensors
    if config.get("sliding_window"):
        flipped = not config.get("use_sliding_window", True)
        yield "the wrong attention window", {**config, "use_sliding_window": flipped}, tensors
    if config.get("rms_norm_eps", 0) > 1e-4:
        yield "another rms_norm_eps", {**config, "rms_norm_eps": 1e-5}, tensors
