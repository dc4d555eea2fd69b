//! DeepSeek-V2 (arXiv:2405.04434) and V3 (arXiv:2412.19437): latent attention, and experts but for the first layers.

use crate::layers::{Block, PreNormBlock};
use crate::llama::{decoder, experts_or_dense};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let latent = config.attention.latent.as_ref().expect("the family's configuration has latent attention");
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: loader.child("self_attn").latent_attention(config, latent, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: experts_or_dense(loader, config, layer)?,
    }))
}

/// Layers that predict further tokens in training, after the model's own.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.starts_with("model.layers.61.")
}
