//! StarCoder2 (arXiv:2402.19173) and Arcee: Llama with a feed-forward layer that has no gate.

use crate::layers::{Block, PreNormBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, |loader, config, layer| block(loader, config, layer, ["c_fc", "c_proj"]))
}

pub(crate) fn build_arcee(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, |loader, config, layer| block(loader, config, layer, ["up_proj", "down_proj"]))
}

fn block(
    loader: &Loader<'_>,
    config: &ModelConfig,
    layer: usize,
    [up, down]: [&str; 2],
) -> Result<Box<dyn Block>, LoadError> {
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: llama::attention(loader, config, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: loader.child("mlp").feed_forward(up, down, config)?,
    }))
}
