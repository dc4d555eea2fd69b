"""Cases of Gemma 4: what differs from layer to layer, in the combinations that were published."""

from __future__ import annotations

from typing import Any

from case import Case
from transformers import (
    Gemma4Config,
    Gemma4TextConfig,
    Gemma4UnifiedConfig,
    Gemma4UnifiedTextConfig,
)

SLIDING, FULL = "sliding_attention", "full_attention"

VISION = {
    "hidden_size": 4,
    "intermediate_size": 4,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "head_dim": 4,
    "patch_size": 2,
    "position_embedding_size": 4,
}


def _small(**more: Any) -> dict[str, Any]:
    """Two layers, 24 wide; heads of 8, and of 16 where no window ends: half of the pairs turn."""
    return {
        "vocab_size": 160,
        "hidden_size": 24,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "global_head_dim": 16,
        "max_position_embeddings": 512,
        "sliding_window": 24,
        "layer_types": [SLIDING, FULL],
        "rope_parameters": {
            SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
            FULL: {
                "rope_type": "proportional",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        },
        "hidden_size_per_layer_input": 0,
        "vocab_size_per_layer_input": 160,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        **more,
    }


def _unified() -> dict[str, Any]:
    """Values that are keys, and one key-value head on the last layer."""
    fields = _small(attention_k_eq_v=True, num_global_key_value_heads=1)
    return {name: value for name, value in fields.items() if "per_layer_input" not in name}


GEMMA4_CASES: tuple[Case, ...] = (
    Case(
        "gemma4",
        "inputs of each layer's own, two layers that read the keys and values of two before them "
        "and are twice as wide inside, heads of two widths",
        Gemma4TextConfig,
        _small(
            num_hidden_layers=4,
            layer_types=[SLIDING, FULL, SLIDING, FULL],
            hidden_size_per_layer_input=8,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            final_logit_softcapping=12.0,
        ),
        spelling="v4",
        prompt_lengths=(1, 17, 100, 300),
        v4_extra={"global_head_dim": 16},
    ),
    Case(
        "gemma4_experts",
        "experts beside every feed-forward layer, values that are keys, one key-value head on the "
        "last layer",
        Gemma4TextConfig,
        _small(
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            enable_moe_block=True,
            num_experts=5,
            top_k_experts=2,
            moe_intermediate_size=12,
        ),
        fused_experts=True,
        prompt_lengths=(2, 17, 40),
        v4_extra={"global_head_dim": 16, "num_global_key_value_heads": 1},
    ),
    Case(
        "gemma4_images",
        "the text model of a checkpoint that reads images",
        Gemma4Config,
        {
            "text_config": _small(use_bidirectional_attention="vision"),
            "vision_config": VISION,
            "audio_config": None,
            "eos_token_id": [2],
        },
        prompt_lengths=(2, 17, 40),
        v4_extra={"global_head_dim": 16},
    ),
    Case(
        "gemma4_unified",
        "the text model of a checkpoint whose one trunk reads everything",
        Gemma4UnifiedConfig,
        {
            "text_config": _unified(),
            "vision_config": None,
            "audio_config": None,
            "eos_token_id": [2],
        },
        spelling="v4",
        prompt_lengths=(17, 40),
        v4_extra={"global_head_dim": 16, "num_global_key_value_heads": 1},
    ),
    Case(
        "gemma4_unified_text",
        "the same without images",
        Gemma4UnifiedTextConfig,
        _unified(),
        prompt_lengths=(17, 40),
        v4_extra={"global_head_dim": 16, "num_global_key_value_heads": 1},
    ),
)
