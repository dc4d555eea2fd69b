"""What the decoders from GPT-NeoX to MPT call their tensors, and what their layers compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Shape:
    """Heads of a layer."""

    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Family:
    """Names of tensors, the layer's number as `{}`, and what the family's layers compute."""

    embedding: str
    norm: str | None
    head: str
    attention_norm: str
    feed_forward_norm: str | None
    qkv: str | tuple[str, str, str]
    output: str
    up: str
    down: str
    shape: Callable[[dict[str, Any]], Shape]
    eps: float
    num_layers: int
    activation: str = "gelu"
    parallel: bool = False
    post_norm: bool = False
    split: str = "grouped"
    rotary: tuple[float, int, bool] | None = None  # base, elements, neighbours are pairs
    alibi: float | None = None  # factor on the slopes
    scale: float | None = None
    clip: float | None = None


def _multi_head(hidden: str, heads: str) -> Callable[[dict[str, Any]], Shape]:
    return lambda c: Shape(c[heads], c[heads], c[hidden] // c[heads])


def _rope(c: dict[str, Any], head_dim: int) -> tuple[float, int, bool]:
    rope = c["rope_parameters"]
    elements = int(head_dim * rope.get("partial_rotary_factor", 1.0))
    return rope["rope_theta"], elements, False


def _gpt_neox(c: dict[str, Any]) -> Family:
    layer, head_dim = "gpt_neox.layers.{}.", c["hidden_size"] // c["num_attention_heads"]
    return Family(
        embedding="gpt_neox.embed_in",
        norm="gpt_neox.final_layer_norm",
        head="embed_out",
        attention_norm=layer + "input_layernorm",
        feed_forward_norm=layer + "post_attention_layernorm",
        qkv=layer + "attention.query_key_value",
        output=layer + "attention.dense",
        up=layer + "mlp.dense_h_to_4h",
        down=layer + "mlp.dense_4h_to_h",
        shape=_multi_head("hidden_size", "num_attention_heads"),
        eps=c["layer_norm_eps"],
        num_layers=c["num_hidden_layers"],
        activation=c["hidden_act"],
        parallel=c["use_parallel_residual"],
        rotary=_rope(c, head_dim),
    )


def _gptj(c: dict[str, Any]) -> Family:
    layer = "transformer.h.{}."
    separate = (layer + "attn.q_proj", layer + "attn.k_proj", layer + "attn.v_proj")
    codegen = c["model_type"] == "codegen"
    return Family(
        embedding="transformer.wte",
        norm="transformer.ln_f",
        head="lm_head",
        attention_norm=layer + "ln_1",
        feed_forward_norm=None,
        qkv=layer + "attn.qkv_proj" if codegen else separate,
        output=layer + "attn.out_proj",
        up=layer + "mlp.fc_in",
        down=layer + "mlp.fc_out",
        shape=_multi_head("n_embd", "n_head"),
        eps=c["layer_norm_epsilon"],
        num_layers=c["n_layer"],
        activation=c["activation_function"],
        parallel=True,
        split="codegen" if codegen else "stacked",
        rotary=(10000.0, c["rotary_dim"], True),
    )


def _phi(c: dict[str, Any]) -> Family:
    layer, head_dim = "model.layers.{}.", c["hidden_size"] // c["num_attention_heads"]
    heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
    attn = layer + "self_attn."
    return Family(
        embedding="model.embed_tokens",
        norm="model.final_layernorm",
        head="lm_head",
        attention_norm=layer + "input_layernorm",
        feed_forward_norm=None,
        qkv=(attn + "q_proj", attn + "k_proj", attn + "v_proj"),
        output=attn + "dense",
        up=layer + "mlp.fc1",
        down=layer + "mlp.fc2",
        shape=lambda c: Shape(heads, kv_heads, head_dim),
        eps=c["layer_norm_eps"],
        num_layers=c["num_hidden_layers"],
        activation=c["hidden_act"],
        parallel=True,
        split="stacked",
        rotary=_rope(c, head_dim),
    )


def _opt(c: dict[str, Any]) -> Family:
    layer = "model.decoder.layers.{}."
    attn, before = layer + "self_attn.", c["do_layer_norm_before"]
    return Family(
        embedding="model.decoder.embed_tokens",
        norm="model.decoder.final_layer_norm" if before else None,
        head="lm_head",
        attention_norm=layer + "self_attn_layer_norm",
        feed_forward_norm=layer + "final_layer_norm",
        qkv=(attn + "q_proj", attn + "k_proj", attn + "v_proj"),
        output=attn + "out_proj",
        up=layer + "fc1",
        down=layer + "fc2",
        shape=_multi_head("hidden_size", "num_attention_heads"),
        eps=1e-5,
        num_layers=c["num_hidden_layers"],
        activation=c["activation_function"],
        post_norm=not before,
        split="stacked",
    )


def _falcon(c: dict[str, Any]) -> Family:
    layer, heads = "transformer.h.{}.", c["num_attention_heads"]
    head_dim, new = c["hidden_size"] // heads, c["new_decoder_architecture"]
    kv_heads = c["num_kv_heads"] if new else 1 if c["multi_query"] else heads
    two_norms = new and c["num_ln_in_parallel_attn"] != 1
    parallel = new or c["parallel_attn"]
    return Family(
        embedding="transformer.word_embeddings",
        norm="transformer.ln_f",
        head="lm_head",
        attention_norm=layer + ("ln_attn" if two_norms else "input_layernorm"),
        feed_forward_norm=layer + "ln_mlp"
        if two_norms
        else None
        if parallel
        else layer + "post_attention_layernorm",
        qkv=layer + "self_attention.query_key_value",
        output=layer + "self_attention.dense",
        up=layer + "mlp.dense_h_to_4h",
        down=layer + "mlp.dense_4h_to_h",
        shape=lambda c: Shape(heads, kv_heads, head_dim),
        eps=c["layer_norm_epsilon"],
        num_layers=c["num_hidden_layers"],
        activation=c["activation"],
        parallel=parallel,
        rotary=None if c["alibi"] else _rope(c, head_dim),
        alibi=head_dim**-0.5 if c["alibi"] else None,
    )


def _bloom(c: dict[str, Any]) -> Family:
    layer = "transformer.h.{}."
    return Family(
        embedding="transformer.word_embeddings",
        norm="transformer.ln_f",
        head="lm_head",
        attention_norm=layer + "input_layernorm",
        feed_forward_norm=layer + "post_attention_layernorm",
        qkv=layer + "self_attention.query_key_value",
        output=layer + "self_attention.dense",
        up=layer + "mlp.dense_h_to_4h",
        down=layer + "mlp.dense_4h_to_h",
        shape=_multi_head("hidden_size", "n_head"),
        eps=c["layer_norm_epsilon"],
        num_layers=c["n_layer"],
        activation="gelu_new",
        alibi=1.0,
    )


def _mpt(c: dict[str, Any]) -> Family:
    layer = "transformer.blocks.{}."
    return Family(
        embedding="transformer.wte",
        norm="transformer.norm_f",
        head="lm_head",
        attention_norm=layer + "norm_1",
        feed_forward_norm=layer + "norm_2",
        qkv=layer + "attn.Wqkv",
        output=layer + "attn.out_proj",
        up=layer + "ffn.up_proj",
        down=layer + "ffn.down_proj",
        shape=_multi_head("d_model", "n_heads"),
        eps=c["layer_norm_epsilon"],
        num_layers=c["n_layers"],
        split="stacked",
        alibi=1.0,
        scale=c["attn_config"]["softmax_scale"],
        clip=c["attn_config"]["clip_qkv"],
    )


def _gpt_bigcode(c: dict[str, Any]) -> Family:
    layer, heads = "transformer.h.{}.", c["n_head"]
    return Family(
        embedding="transformer.wte",
        norm="transformer.ln_f",
        head="lm_head",
        attention_norm=layer + "ln_1",
        feed_forward_norm=layer + "ln_2",
        qkv=layer + "attn.c_attn",
        output=layer + "attn.c_proj",
        up=layer + "mlp.c_fc",
        down=layer + "mlp.c_proj",
        shape=lambda c: Shape(heads, 1 if c["multi_query"] else heads, c["n_embd"] // heads),
        eps=c["layer_norm_epsilon"],
        num_layers=c["n_layer"],
        activation=c["activation_function"],
    )


FAMILIES: Mapping[str, Callable[[dict[str, Any]], Family]] = {
    "bloom": _bloom,
    "codegen": _gptj,
    "falcon": _falcon,
    "gpt_bigcode": _gpt_bigcode,
    "gpt_neox": _gpt_neox,
    "gptj": _gptj,
    "mpt": _mpt,
    "opt": _opt,
    "phi": _phi,
}
