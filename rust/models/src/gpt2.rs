//! GPT-2: learned positions, layer norms, one fused projection, weights stored transposed. GPTBigCode (StarCoder,
//! arXiv:2305.06161) stores them as they are used, and has one key/value head.

use crate::layers::{Attention, Block, BuildBlock, Decoder, Embedding, FeedForward, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder(loader, config, block)
}

pub(crate) fn build_bigcode(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder(loader, config, bigcode_block)
}

fn decoder(loader: &Loader<'_>, config: &ModelConfig, block: BuildBlock) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "wte.weight");
    let tokens = base.token_embedding("wte", config)?;
    let positions = base.embedding("wpe", config.max_position_embeddings, config.hidden_size)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("wte", &tokens))?;
    let embedding = Embedding { positions: Some(positions), ..Embedding::new(tokens) };
    let blocks = base.blocks("h", config, block)?;
    let norm = base.norm("ln_f", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, embedding, blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, inner) = (config.hidden_size, config.feed_forward.intermediate_size);
    let (attention, mlp) = (loader.child("attn"), loader.child("mlp"));
    let qkv = attention.transposed_linear("c_attn", 3 * hidden, hidden)?;
    let output = attention.transposed_linear("c_proj", hidden, hidden)?;
    let feed_forward = FeedForward::Plain {
        up: mlp.transposed_linear("c_fc", inner, hidden)?,
        down: mlp.transposed_linear("c_proj", hidden, inner)?,
        activation: config.feed_forward.activation,
    };
    normed(loader, config, attention.attention_of(qkv, output, config, layer)?, feed_forward)
}

fn bigcode_block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("attn");
    let qkv = attention.grouped_qkv("c_attn", config)?;
    let feed_forward = loader.child("mlp").feed_forward("c_fc", "c_proj", config)?;
    normed(loader, config, attention.attention(qkv, "c_proj", config, layer)?, feed_forward)
}

fn normed(
    loader: &Loader<'_>,
    config: &ModelConfig,
    attention: Attention,
    feed_forward: FeedForward,
) -> Result<Box<dyn Block>, LoadError> {
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    let (attention_norm, feed_forward_norm) = (norm("ln_1")?, norm("ln_2")?);
    Ok(Box::new(PreNormBlock { attention_norm, attention, feed_forward_norm, feed_forward }))
}

/// The causal masks that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".attn.bias") || name.ends_with(".attn.masked_bias")
}
