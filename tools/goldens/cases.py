"""The table of golden cases: one row per checkpoint folder.

A row says what the folder is there to catch. Sizes are small and deliberately uneven (odd
vocabularies, head sizes that are no power of two), so that a kernel that forgets its tail is caught
as well.
"""

from __future__ import annotations

from typing import Any

from case import Case, rotary
from classic_cases import CLASSIC_CASES
from decoder_cases import DECODER_CASES
from gemma4_cases import GEMMA4_CASES
from transformers import (
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)


def _gpt2(n_positions: int, **more: Any) -> dict[str, Any]:
    """Fields shared by the GPT-2 cases."""
    return {
        "vocab_size": 331,
        "n_embd": 48,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": n_positions,
        "bos_token_id": 330,
        "eos_token_id": 330,
        **more,
    }


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
"""64 original positions and head_dim 16: some frequencies are kept, some blended, some divided."""

LINEAR_ROPE = {"rope_type": "linear", "rope_theta": 10000.0, "factor": 2.0}

MODEL_CASES: tuple[Case, ...] = (
    Case(
        "llama",
        "the plain case: grouped-query attention 4/2, untied output, no head_dim field",
        LlamaConfig,
        rotary(64, 4, 2, 96),
        spelling="v4",
        v4_extra={"head_dim": None},
    ),
    Case(
        "llama_tied",
        "output tied to the embedding, one key-value head per query head, head_dim 12",
        LlamaConfig,
        rotary(48, 4, 4, 80, tie_word_embeddings=True),
    ),
    Case(
        "llama_rope_llama3",
        "llama3 rope scaling with a short original context, multi-query attention 3/1",
        LlamaConfig,
        rotary(48, 3, 1, 80, rope_parameters=LLAMA3_ROPE),
        spelling="v4",
    ),
    Case(
        "llama_rope_linear",
        "linear rope scaling, in the oldest spelling ({'type': 'linear'}), head_dim 8",
        LlamaConfig,
        rotary(48, 6, 2, 80, rope_parameters=LINEAR_ROPE),
        spelling="v4",
        v4_extra={"head_dim": None, "rope_scaling": {"type": "linear", "factor": 2.0}},
    ),
    Case(
        "llama_bias",
        "attention_bias and mlp_bias, an odd vocabulary, an epsilon (0.01) that shows",
        LlamaConfig,
        rotary(48, 4, 2, 72, vocab_size=333, attention_bias=True, mlp_bias=True, rms_norm_eps=1e-2),
    ),
    Case(
        "llama_head_dim",
        "head_dim 24, where hidden_size / num_attention_heads is 12",
        LlamaConfig,
        rotary(48, 4, 2, 80, head_dim=24),
        spelling="v4",
    ),
    Case(
        "llama_sharded",
        "weights in three files and an index",
        LlamaConfig,
        rotary(48, 4, 2, 80),
        num_shards=3,
    ),
    Case(
        "llama_bf16",
        "bfloat16 weights, llama3 rope scaling in the v5 spelling",
        LlamaConfig,
        rotary(64, 4, 2, 96, rope_parameters=LLAMA3_ROPE),
        dtype="bfloat16",
    ),
    Case(
        "llama_f16",
        "float16 weights",
        LlamaConfig,
        rotary(64, 4, 2, 96),
        spelling="v4",
        dtype="float16",
    ),
    Case(
        "mistral",
        "no sliding window, a rope base that is not the default",
        MistralConfig,
        rotary(
            48,
            4,
            2,
            80,
            sliding_window=None,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        spelling="v4",
        v4_extra={"head_dim": None, "sliding_window": ...},
    ),
    Case(
        "mistral_sliding_window",
        "a sliding window of 24 tokens, shorter than four of the prompts",
        MistralConfig,
        rotary(32, 4, 2, 48, sliding_window=24),
    ),
    Case(
        "qwen2",
        "query, key and value biases, tied output, a sliding_window that is switched off",
        Qwen2Config,
        rotary(
            64,
            4,
            2,
            96,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        spelling="v4",
        v4_extra={"sliding_window": 16, "max_window_layers": 1, "use_sliding_window": False},
    ),
    Case(
        "qwen3",
        "query and key norms, head_dim 32 where hidden_size / num_attention_heads is 12",
        Qwen3Config,
        rotary(48, 4, 2, 80, head_dim=32, rms_norm_eps=1e-6),
    ),
    Case(
        "qwen3_bf16",
        "bfloat16 weights, tied output, v4 spelling",
        Qwen3Config,
        rotary(
            64,
            4,
            2,
            96,
            head_dim=32,
            tie_word_embeddings=True,
            rms_norm_eps=1e-6,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        spelling="v4",
        dtype="bfloat16",
    ),
    Case(
        "qwen3_fp8",
        "projections in FP8 with a scale for each block, the last blocks narrower than the others",
        Qwen3Config,
        rotary(40, 4, 2, 56, head_dim=12, vocab_size=256, tie_word_embeddings=True),
        spelling="v4",
        prompt_lengths=(2, 17, 100),
        fp8=True,
    ),
    Case(
        "gpt2",
        "transposed (Conv1D) weights, fused qkv, learned positions, tied output",
        GPT2Config,
        _gpt2(512),
    ),
    Case(
        "gpt2_unprefixed",
        "tensor names of the first GPT-2 uploads (no 'transformer.' prefix, stored causal masks); "
        "the longest path fills the position table exactly",
        GPT2Config,
        _gpt2(80),
        spelling="v4",
        prompt_lengths=(1, 2, 7, 16),
        original_gpt2_names=True,
        v4_extra={"n_ctx": 80, "torch_dtype": None},
    ),
    *DECODER_CASES,
    *CLASSIC_CASES,
    *GEMMA4_CASES,
)

CHAT_VOCAB_SIZE = 384
"""Entries of the chat tokenizer, special tokens included."""

CHAT_CASE = Case(
    "chat_llama",
    "a complete chat model: tokenizer, chat template, generation defaults, padded vocabulary",
    LlamaConfig,
    # Eight rows more than the tokenizer has entries, as many checkpoints on the hub have.
    rotary(48, 4, 2, 80, vocab_size=CHAT_VOCAB_SIZE + 8),
    spelling="v4",
)
