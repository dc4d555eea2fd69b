//! Llama (arXiv:2302.13971) and the families that differ from it by what their configurations say: windows (Mistral, Phi-3),
//! biases (Qwen2, StableLM), normed heads (Qwen3), layers without positions (SmolLM3), neighbouring rotary pairs (GLM-4, Ernie
//! 4.5), multipliers (Granite, Gemma), other norms (Gemma, StableLM), fused projections (Phi-3, GLM-4), experts (Mixtral, OLMoE,
//! Qwen's mixtures). Families with another block are built from its parts.

use crate::config::{FeedForwardConfig, QkNorm};
use crate::layers::{Attention, Block, BuildBlock, Decoder, Embedding, FeedForward, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder(loader, config, block)
}

/// The decoder of layers that `block` builds.
pub(crate) fn decoder(
    loader: &Loader<'_>,
    config: &ModelConfig,
    block: BuildBlock,
) -> Result<Box<dyn Model>, LoadError> {
    Ok(Box::new(unboxed_decoder(loader, config, block)?))
}

/// The same, to be added to.
pub(crate) fn unboxed_decoder(
    loader: &Loader<'_>,
    config: &ModelConfig,
    block: BuildBlock,
) -> Result<Decoder, LoadError> {
    let base = loader.base_model("model", "embed_tokens.weight");
    let tokens = base.token_embedding("embed_tokens", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("embed_tokens", &tokens))?;
    let multiplier = loader.rounded_multiplier(config.multipliers.embedding);
    let embedding = Embedding { multiplier, ..Embedding::new(tokens) };
    let blocks = base.blocks("layers", config, block)?;
    let norm = base.norm("norm", config.hidden_size, config.norm)?;
    Ok(Decoder::new(config, embedding, blocks, norm, lm_head))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: attention(loader, config, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: experts_or_dense(loader, config, layer)?,
    }))
}

/// The attention of layer `layer`.
pub(crate) fn attention(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Attention, LoadError> {
    let (loader, q, kv) = (loader.child("self_attn"), config.q_size(), config.kv_size());
    let head_dim = config.attention.head_dim;
    let norms =
        |q, k| Ok::<_, LoadError>((loader.norm("q_norm", q, config.norm)?, loader.norm("k_norm", k, config.norm)?));
    Ok(Attention {
        qkv: loader.qkv_linear("qkv_proj", ["q_proj", "k_proj", "v_proj"], config, layer)?,
        output: loader.linear("o_proj", config.hidden_size, q, config.attention.output_bias)?,
        qk_norm: match config.attention.qk_norm {
            None => None,
            Some(QkNorm::Head) => Some(norms(head_dim, head_dim)?),
            Some(QkNorm::Row) => Some(norms(q, kv)?),
            Some(QkNorm::EachHead) => Some(loader.norms_of_each_head(config, layer)?),
        },
        rope: loader.rope(config, layer)?,
        clip_qkv: None,
        v_norm: None,
        params: config.attention_params(layer),
        layer,
    })
}

/// The experts of layer `layer`, or its gated feed-forward layer.
pub(crate) fn experts_or_dense(
    loader: &Loader<'_>,
    config: &ModelConfig,
    layer: usize,
) -> Result<FeedForward, LoadError> {
    match config.moe.as_ref().filter(|moe| moe.sparse_layers[layer]) {
        Some(moe) => {
            let loader = loader.first_child(["mlp", "block_sparse_moe"], "gate.weight");
            Ok(FeedForward::Moe(loader.moe(config, moe)?))
        }
        None => feed_forward(loader, config),
    }
}

/// The gated feed-forward layer.
pub(crate) fn feed_forward(loader: &Loader<'_>, config: &ModelConfig) -> Result<FeedForward, LoadError> {
    let FeedForwardConfig { intermediate_size, activation, bias } = config.feed_forward;
    loader.child("mlp").gated_feed_forward(config.hidden_size, intermediate_size, bias, activation)
}

/// The frequencies that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".rotary_emb.inv_freq")
}
