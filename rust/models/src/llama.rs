//! Llama (arXiv:2302.13971) and the families that differ from it by a switch: Mistral's sliding window, Qwen2's biases on
//! queries, keys and values, Qwen3's normed heads.

use rustllm_ops::RopeTable;

use crate::layers::{Attention, Block, Decoder, Embedding, FeedForward, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("model", "embed_tokens.weight");
    let tokens = base.token_embedding("embed_tokens", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("embed_tokens", &tokens))?;
    let rope = loader.rope(config)?;
    let layers = base.child("layers");
    let block = |layer| block(&layers.child(layer), config, layer, rope.clone());
    Ok(Box::new(Decoder {
        embedding: Embedding { tokens, positions: None },
        blocks: (0..config.num_layers()).map(block).collect::<Result<_, _>>()?,
        norm: base.rms_norm("norm", config.hidden_size, config.norm_eps)?,
        lm_head,
        num_kv_heads: config.num_kv_heads,
        head_dim: config.head_dim,
    }))
}

fn block(
    loader: &Loader<'_>,
    config: &ModelConfig,
    layer: usize,
    rope: Option<RopeTable>,
) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm_eps);
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.rms_norm("input_layernorm", hidden, eps)?,
        attention: attention(&loader.child("self_attn"), config, layer, rope)?,
        feed_forward_norm: loader.rms_norm("post_attention_layernorm", hidden, eps)?,
        feed_forward: feed_forward(&loader.child("mlp"), config)?,
    }))
}

fn attention(
    loader: &Loader<'_>,
    config: &ModelConfig,
    layer: usize,
    rope: Option<RopeTable>,
) -> Result<Attention, LoadError> {
    let (hidden, q, kv) = (config.hidden_size, config.q_size(), config.kv_size());
    let head_norm = |name| loader.rms_norm(name, config.head_dim, config.norm_eps);
    Ok(Attention {
        qkv: loader.fused_linear(&[("q_proj", q), ("k_proj", kv), ("v_proj", kv)], hidden, config.qkv_bias)?,
        output: loader.linear("o_proj", hidden, q, config.attention_output_bias)?,
        qk_norm: if config.qk_norm { Some((head_norm("q_norm")?, head_norm("k_norm")?)) } else { None },
        rope,
        params: config.attention_params(layer),
        layer,
    })
}

fn feed_forward(loader: &Loader<'_>, config: &ModelConfig) -> Result<FeedForward, LoadError> {
    let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
    Ok(FeedForward::Gated {
        gate_up: loader.fused_linear(&[("gate_proj", inner), ("up_proj", inner)], hidden, bias)?,
        down: loader.linear("down_proj", hidden, inner, bias)?,
        activation: config.hidden_act,
    })
}

/// The frequencies that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}
