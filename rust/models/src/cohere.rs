//! Cohere's Command R: Llama's parts side by side on one norm.

use crate::layers::{Block, ParallelBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    Ok(Box::new(ParallelBlock {
        norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: llama::attention(loader, config, layer)?,
        feed_forward: llama::feed_forward(loader, config)?,
    }))
}
