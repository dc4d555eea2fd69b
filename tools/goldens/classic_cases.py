"""The golden cases of the decoders from GPT-NeoX to MPT: layer norms, plain feed-forward layers."""

from __future__ import annotations

from typing import Any

from case import Case
from transformers import (
    BloomConfig,
    CodeGenConfig,
    FalconConfig,
    GPTBigCodeConfig,
    GPTJConfig,
    GPTNeoXConfig,
    MptConfig,
    OPTConfig,
    PhiConfig,
)

LENGTHS = (1, 7, 33, 100)
"""Prompt lengths of a family's main case."""

FEW = (2, 17, 40)
"""Prompt lengths of its variations, which have half the vocabulary as well."""

VARIATION = {"vocab_size": 160}

TOKENS = {"vocab_size": 320, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}


def _rope(theta: float, part: float | None = None) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": theta}
    return rope if part is None else {**rope, "partial_rotary_factor": part}


def _hugging_face(**more: Any) -> dict[str, Any]:
    """Sizes in Hugging Face's own spelling: two layers, four heads of 8."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return {**TOKENS, **sizes, "max_position_embeddings": 320, **more}


def _gpt2(**more: Any) -> dict[str, Any]:
    """Sizes in GPT-2's spelling: two layers, four heads of 8."""
    sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_inner": 48, "n_positions": 320}
    return {**TOKENS, **sizes, **more}


CLASSIC_CASES: tuple[Case, ...] = (
    Case(
        "gpt_neox",
        "a parallel block of two norms, half of each head rotates, fused qkv head by head; "
        "rotary_pct and rotary_emb_base, as all files on the hub have them",
        GPTNeoXConfig,
        _hugging_face(intermediate_size=48, rope_parameters=_rope(20000.0, 0.5)),
        spelling="v4",
        prompt_lengths=LENGTHS,
        v4_extra={"rotary_pct": 0.5, "rotary_emb_base": 20000.0, "rope_theta": None},
    ),
    Case(
        "gpt_neox_sequential",
        "use_parallel_residual off, whole heads rotate, no attention biases",
        GPTNeoXConfig,
        _hugging_face(
            **VARIATION,
            intermediate_size=48,
            use_parallel_residual=False,
            attention_bias=False,
            hidden_act="gelu_new",
            rope_parameters=_rope(10000.0, 1.0),
        ),
        prompt_lengths=FEW,
        v4_extra={"rotary_pct": 1.0, "rotary_emb_base": 10000.0, "rope_theta": None},
    ),
    Case(
        "gptj",
        "a parallel block of one norm, neighbours rotate as pairs, lm_head with a bias",
        GPTJConfig,
        _gpt2(rotary_dim=4),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "codegen",
        "GPT-J with one qkv projection in four shards of queries, values and keys, eight heads of 4",
        CodeGenConfig,
        _gpt2(**VARIATION, n_head=8, rotary_dim=2),
        prompt_lengths=FEW,
    ),
    Case(
        "phi",
        "a parallel block of one norm, half of each head rotates, lm_head with a bias, "
        "grouped-query attention 4/2",
        PhiConfig,
        _hugging_face(
            intermediate_size=48, num_key_value_heads=2, rope_parameters=_rope(10000.0, 0.5)
        ),
        spelling="v4",
        prompt_lengths=(1, 7, 33, 65),
        v4_extra={"partial_rotary_factor": 0.5},
    ),
    Case(
        "opt",
        "learned positions from the third row on, norms before, ReLU, tied output",
        OPTConfig,
        _hugging_face(ffn_dim=48),
        prompt_lengths=LENGTHS,
    ),
    Case(
        "opt_post_norm",
        "the 350m shape: norms after, none at the end, embeddings of 16 in a stream of 32",
        OPTConfig,
        _hugging_face(
            ffn_dim=48,
            do_layer_norm_before=False,
            word_embed_proj_dim=16,
        ),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "opt_no_bias",
        "enable_bias off, untied output, GELU",
        OPTConfig,
        _hugging_face(
            **VARIATION,
            ffn_dim=48,
            enable_bias=False,
            tie_word_embeddings=False,
            activation_function="gelu",
        ),
        prompt_lengths=FEW,
    ),
    Case(
        "falcon",
        "the 7b shape: multi-query attention, a parallel block of one norm, no biases",
        FalconConfig,
        _hugging_face(ffn_hidden_size=48, rope_parameters=_rope(10000.0)),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "falcon_new_decoder",
        "the 40b shape: grouped-query attention 4/2, a parallel block of two norms",
        FalconConfig,
        _hugging_face(
            **VARIATION,
            ffn_hidden_size=48,
            new_decoder_architecture=True,
            num_kv_heads=2,
            rope_parameters=_rope(10000.0),
        ),
        prompt_lengths=FEW,
    ),
    Case(
        "falcon_one_norm",
        "the 11b shape: the new decoder with num_ln_in_parallel_attn 1, untied output",
        FalconConfig,
        _hugging_face(
            **VARIATION,
            ffn_hidden_size=48,
            new_decoder_architecture=True,
            num_kv_heads=1,
            num_ln_in_parallel_attn=1,
            tie_word_embeddings=False,
            rope_parameters=_rope(500042.0),
        ),
        prompt_lengths=FEW,
    ),
    Case(
        "falcon_alibi",
        "the rw shape: ALiBi (scaled as scores are), key-value head by head, one after the other, "
        "biases",
        FalconConfig,
        _hugging_face(
            **VARIATION,
            ffn_hidden_size=48,
            alibi=True,
            multi_query=False,
            parallel_attn=False,
            bias=True,
            rope_parameters=_rope(10000.0),
        ),
        spelling="v4",
        prompt_lengths=FEW,
        # transformers' eager attention adds the biases twice.
        attention="sdpa",
        v4_extra={"rope_theta": None, "rope_scaling": None},
    ),
    Case(
        "bloom",
        "ALiBi with six heads (no power of two), an embedding norm, fused qkv head by head",
        BloomConfig,
        {**TOKENS, "hidden_size": 24, "n_layer": 2, "n_head": 6},
        prompt_lengths=LENGTHS,
        spelling="v4",
        v4_extra={"n_embed": 24, "hidden_size": None, "seq_length": 2048},
    ),
    Case(
        "mpt",
        "ALiBi with three heads, norms and projections without biases",
        MptConfig,
        {**TOKENS, "d_model": 24, "n_layers": 2, "n_heads": 3, "max_seq_len": 320},
        prompt_lengths=LENGTHS,
    ),
    Case(
        "mpt_clip",
        "clip_qkv, a softmax_scale of its own, four heads, untied output",
        MptConfig,
        {
            **TOKENS,
            **VARIATION,
            "d_model": 24,
            "n_layers": 2,
            "n_heads": 4,
            "max_seq_len": 320,
            "tie_word_embeddings": False,
            "attn_config": {"clip_qkv": 1.5, "softmax_scale": 0.6},
        },
        spelling="v4",
        prompt_lengths=FEW,
    ),
    Case(
        "gpt_bigcode",
        "GPT-2 with multi-query attention and projections stored as they are used",
        GPTBigCodeConfig,
        _gpt2(),
        spelling="v4",
        prompt_lengths=LENGTHS,
    ),
    Case(
        "gpt_bigcode_multi_head",
        "multi_query off: fused qkv head by head",
        GPTBigCodeConfig,
        _gpt2(**VARIATION, multi_query=False),
        prompt_lengths=FEW,
    ),
)
