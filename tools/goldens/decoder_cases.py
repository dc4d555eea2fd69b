"""Cases of the rotary decoders after Llama, and of the rules that stretch rotary positions."""

from __future__ import annotations

from typing import Any

from case import Case, rotary
from transformers import (
    ArceeConfig,
    Cohere2Config,
    CohereConfig,
    Ernie4_5Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GemmaConfig,
    Glm4Config,
    GlmConfig,
    GraniteConfig,
    LlamaConfig,
    Olmo2Config,
    Olmo3Config,
    Phi3Config,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

LENGTHS = (1, 17, 100, 300)
"""Prompt lengths of these cases: one token, past a block, long, and past a window and a chunk."""


def _small(**more: Any) -> dict[str, Any]:
    """32 wide, 4 query and 2 key-value heads of 8, 256 tokens, output tied to the embedding."""
    shared = {"vocab_size": 256, "tie_word_embeddings": True, **more}
    return rotary(32, 4, 2, 48, **shared)


def _with_layer_norms(eps_name: str, **more: Any) -> dict[str, Any]:
    """The same for families whose norm has another field for its epsilon."""
    fields = _small(**more)
    fields[eps_name] = fields.pop("rms_norm_eps")
    return fields


DYNAMIC_ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}

YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 16.0,
    "beta_slow": 2.0,
}
"""Some of four pairs kept, some on the ramp, some divided; queries and keys longer by 0.1 ln 8."""

MSCALE = {"mscale": 0.7, "mscale_all_dim": 1.4, "truncate": False}
"""YaRN with another rule for the length of queries and keys, and a ramp between whole pairs."""

SLIDING = "sliding_attention"
FULL = "full_attention"


def _longrope(original: int) -> dict[str, Any]:
    """Divisors for the three pairs of 6 of 8 elements."""
    return {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.75,
            "short_factor": [1.0, 1.3, 1.9],
            "long_factor": [2.0, 3.0, 9.0],
            "original_max_position_embeddings": original,
        },
        "original_max_position_embeddings": original,
    }


DECODER_CASES: tuple[Case, ...] = (
    Case(
        "llama_rope_dynamic",
        "dynamic rope scaling at its original length, where it must change nothing",
        LlamaConfig,
        _small(rope_parameters=DYNAMIC_ROPE),
        spelling="v4",
        prompt_lengths=LENGTHS,
        max_model_len=512,
    ),
    Case(
        "llama_rope_yarn",
        "YaRN with its own rule for the length of queries and keys",
        LlamaConfig,
        _small(rope_parameters=YARN_ROPE),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "llama_rope_yarn_mscale",
        "YaRN with mscale, and a ramp that starts and ends between pairs",
        LlamaConfig,
        _small(rope_parameters={**YARN_ROPE, **MSCALE}),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "phi3",
        "fused projections, three quarters of a head rotated, LongRoPE within its first context",
        Phi3Config,
        _small(**_longrope(384)),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "phi3_long",
        "LongRoPE past its first context, a window on every layer",
        Phi3Config,
        _small(sliding_window=40, **_longrope(64)),
        prompt_lengths=(65, 100, 300),
        max_model_len=512,
    ),
    Case(
        "gemma",
        "scaled embeddings, norm weights that count from one, `gelu` that means its approximation",
        GemmaConfig,
        _small(head_dim=12),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra={"hidden_act": "gelu", "hidden_activation": ...},
    ),
    Case(
        "gemma2",
        "norms before and after, capped scores and logits, a window on the first layer",
        Gemma2Config,
        _small(
            head_dim=8,
            query_pre_attn_scalar=12,
            sliding_window=24,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=15.0,
        ),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "gemma3",
        "two rotary bases, one of them scaled, normed heads, a window on the first layer",
        Gemma3TextConfig,
        _small(
            head_dim=8,
            query_pre_attn_scalar=24,
            sliding_window=24,
            layer_types=[SLIDING, FULL],
            rope_parameters={
                SLIDING: {"rope_type": "default", "rope_theta": 1000.0},
                FULL: {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
            },
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra={"sliding_window_pattern": 2, "rope_local_base_freq": 1000.0},
    ),
    Case(
        "gemma3_images",
        "the text model of a checkpoint that takes images, numbers of heads left to their defaults",
        Gemma3Config,
        {
            "text_config": _small(
                head_dim=8,
                num_attention_heads=8,
                num_key_value_heads=4,
                query_pre_attn_scalar=24,
                sliding_window=24,
                layer_types=[SLIDING, FULL],
                rope_parameters=None,
            ),
            "vision_config": {
                "hidden_size": 4,
                "intermediate_size": 4,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "image_size": 4,
                "patch_size": 4,
            },
            "mm_tokens_per_image": 1,
            "eos_token_id": [2],
        },
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra={
            "num_attention_heads": None,
            "num_key_value_heads": None,
            "sliding_window_pattern": 2,
        },
    ),
    Case(
        "smollm3",
        "no positions in the second layer",
        SmolLM3Config,
        _small(no_rope_layer_interval=2),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "granite",
        "the four multipliers",
        GraniteConfig,
        _small(
            embedding_multiplier=1.2,
            attention_multiplier=0.6,
            residual_multiplier=1.2,
            logits_scaling=0.8,
            attention_bias=True,
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "olmo2",
        "outputs normed in place of inputs, queries and keys normed as whole rows",
        Olmo2Config,
        _small(),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "olmo3",
        "a window on the first layer, YaRN on the second alone",
        Olmo3Config,
        _small(
            sliding_window=24,
            layer_types=[SLIDING, FULL],
            rope_parameters={
                SLIDING: {"rope_type": "default", "rope_theta": 500000.0},
                FULL: {**YARN_ROPE, "rope_theta": 500000.0},
            },
        ),
        prompt_lengths=LENGTHS,
        v4_extra={"layer_types": [SLIDING, FULL]},
    ),
    Case(
        "cohere",
        "attention and feed-forward on one norm without bias, neighbouring pairs, scaled logits",
        CohereConfig,
        _with_layer_norms("layer_norm_eps", logit_scale=0.5, attention_bias=True),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "cohere2",
        "a window and positions on the first layer, neither on the second",
        Cohere2Config,
        _with_layer_norms(
            "layer_norm_eps", logit_scale=0.5, sliding_window=24, layer_types=[SLIDING, FULL]
        ),
        prompt_lengths=LENGTHS,
        v4_extra={"sliding_window_pattern": 2},
    ),
    Case(
        "stablelm",
        "layer norms with biases, half of a head rotated, query, key and value biases",
        StableLmConfig,
        _with_layer_norms(
            "layer_norm_eps",
            use_qkv_bias=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "cohere_plus",
        "each query and key head normed with a weight of its own, neighbouring pairs",
        CohereConfig,
        _with_layer_norms("layer_norm_eps", logit_scale=0.5, use_qk_norm=True, vocab_size=160),
        spelling="v4",
        prompt_lengths=(2, 17, 100),
    ),
    Case(
        "stablelm_parallel",
        "a parallel block of one norm, heads normed with weights in tensors of their own",
        StableLmConfig,
        _with_layer_norms(
            "layer_norm_eps",
            vocab_size=160,
            qk_layernorm=True,
            use_parallel_residual=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.5,
            },
        ),
        spelling="v4",
        prompt_lengths=(2, 17, 100),
    ),
    Case(
        "arcee",
        "a squared ReLU without a gate, biases in the feed-forward layers",
        ArceeConfig,
        _small(mlp_bias=True, vocab_size=160),
        spelling="v4",
        prompt_lengths=(2, 17, 100),
    ),
    Case(
        "starcoder2",
        "layer norms, biases everywhere, a plain feed-forward layer, a window on every layer",
        Starcoder2Config,
        _with_layer_norms("norm_epsilon", sliding_window=24),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "glm",
        "neighbouring pairs of half of a head, query, key and value biases, one gate_up_proj",
        GlmConfig,
        _small(head_dim=12),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "glm4",
        "GLM without biases, norms before and after, the part that rotates left to its default",
        Glm4Config,
        _small(head_dim=8, attention_bias=False),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra={"partial_rotary_factor": None},
    ),
    Case(
        "ernie4_5",
        "neighbouring pairs of whole heads, biases everywhere",
        Ernie4_5Config,
        _small(head_dim=8, use_bias=True),
        prompt_lengths=LENGTHS,
    ),
)
