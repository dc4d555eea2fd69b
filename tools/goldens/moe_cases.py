"""The golden cases of models with mixtures of experts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from case import Case, rotary
from transformers import (
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    MixtralConfig,
    OlmoeConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
)

LENGTHS = (1, 7, 33, 100)
"""Prompt lengths: a decode's few rows, and batches in which every expert has several."""

YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 8.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 0.5,
}

LATENT = {
    "kv_lora_rank": 20,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 12,
    "moe_intermediate_size": 16,
    "rms_norm_eps": 1e-6,
}
"""Sizes of latent attention that differ from each other: keys of 24, values of 12."""

GROUPED_LATENT = {
    **LATENT,
    "q_lora_rank": 24,
    "num_experts_per_tok": 3,
    "n_group": 4,
    "topk_group": 2,
    "first_k_dense_replace": 1,
    "rope_parameters": YARN,
}
"""Queries with a latent too, experts in four groups of which two are looked into."""

NO_HEAD_DIM = {"head_dim": None, "qk_head_dim": None}
"""Latent attention's checkpoints do not name what follows from the sizes of its parts."""

GPT_OSS = {
    "head_dim": 16,
    "sliding_window": 24,
    "swiglu_limit": 1.5,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "beta_fast": 8.0,
        "beta_slow": 1.0,
        "truncate": False,
    },
}
"""A limit that many gates and ups of these random experts reach."""

NO_V4_HEAD_DIM: Mapping[str, Any] = {"head_dim": None}

MOE_CASES: tuple[Case, ...] = (
    Case(
        "mixtral",
        "2 of 5 experts, each in tensors of its own (w1, w2, w3), softmax over the chosen",
        MixtralConfig,
        rotary(32, 4, 2, 24, vocab_size=160, num_local_experts=5, sliding_window=None),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra=NO_V4_HEAD_DIM,
    ),
    Case(
        "mixtral_fused",
        "all experts in one tensor, a sliding window of 24 tokens, one expert a token",
        MixtralConfig,
        rotary(
            32,
            4,
            2,
            16,
            vocab_size=160,
            num_local_experts=4,
            num_experts_per_tok=1,
            sliding_window=24,
        ),
        prompt_lengths=LENGTHS,
        fused_experts=True,
    ),
    Case(
        "qwen2_moe",
        "a gated shared expert, weights not renormalized, a dense first layer",
        Qwen2MoeConfig,
        rotary(
            32,
            4,
            2,
            40,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=24,
            num_experts=7,
            num_experts_per_tok=3,
            norm_topk_prob=False,
            mlp_only_layers=[0],
            rms_norm_eps=1e-6,
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "qwen3_moe",
        "normed query and key heads, 3 of 8 experts with renormalized weights, no shared expert",
        Qwen3MoeConfig,
        rotary(
            32,
            4,
            2,
            40,
            vocab_size=160,
            head_dim=16,
            moe_intermediate_size=16,
            num_experts=8,
            num_experts_per_tok=3,
            norm_topk_prob=True,
            rms_norm_eps=1e-6,
        ),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "olmoe",
        "queries and keys normed over all heads together, weights not renormalized",
        OlmoeConfig,
        rotary(32, 4, 4, 16, vocab_size=160, num_experts=6, num_experts_per_tok=2),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "deepseek_v2",
        "latent attention with a latent of queries, group-limited experts, two shared, yarn",
        DeepseekV2Config,
        rotary(
            32,
            2,
            2,
            40,
            **GROUPED_LATENT,
            vocab_size=160,
            n_routed_experts=8,
            topk_method="group_limited_greedy",
            n_shared_experts=2,
            routed_scaling_factor=2.0,
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra=NO_HEAD_DIM,
    ),
    Case(
        "deepseek_v2_lite",
        "queries without a latent, experts chosen from all, plain rotary positions",
        DeepseekV2Config,
        rotary(
            32,
            2,
            2,
            40,
            **LATENT,
            vocab_size=160,
            q_lora_rank=None,
            n_routed_experts=6,
            num_experts_per_tok=2,
            n_shared_experts=1,
        ),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "deepseek_v3",
        "sigmoid scores with a bias that only chooses, pairs of experts compare groups, yarn",
        DeepseekV3Config,
        rotary(32, 2, 2, 40, **GROUPED_LATENT, n_routed_experts=12, n_shared_experts=1),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra=NO_HEAD_DIM,
    ),
    Case(
        "gpt_oss",
        "sinks, biased experts with an activation that clamps, a window on one layer, yarn",
        GptOssConfig,
        rotary(32, 4, 2, 16, **GPT_OSS, num_local_experts=5, num_experts_per_tok=2),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "gpt_oss_mxfp4",
        "experts in MXFP4: blocks of 32 numbers of four bits",
        GptOssConfig,
        rotary(32, 4, 2, 32, **GPT_OSS, vocab_size=160, num_local_experts=4, num_experts_per_tok=3),
        prompt_lengths=(1, 33),
        mxfp4=True,
    ),
)
