//! Cohere's Command R, and the largest StableLM 2: Llama's parts side by side on one norm.

use crate::config::BlockKind;
use crate::layers::{Block, ParallelBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

/// StableLM, whose parts stand one after the other in most models.
pub(crate) fn build_stablelm(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    match config.block {
        BlockKind::Parallel { .. } => build(loader, config),
        BlockKind::PreNorm | BlockKind::PostNorm => llama::build(loader, config),
    }
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    Ok(Box::new(ParallelBlock {
        norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: llama::attention(loader, config, layer)?,
        feed_forward: llama::feed_forward(loader, config)?,
    }))
}
