//! OLMo 2 (arXiv:2501.00656) and 3: Llama's parts, their outputs normed and not their inputs.

use crate::layers::{Block, PostNormBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    Ok(Box::new(PostNormBlock {
        attention: llama::attention(loader, config, layer)?,
        attention_output_norm: norm("post_attention_layernorm")?,
        feed_forward: llama::feed_forward(loader, config)?,
        feed_forward_output_norm: norm("post_feedforward_layernorm")?,
    }))
}
