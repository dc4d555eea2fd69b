//! StarCoder2 (arXiv:2402.19173): Llama with GPT-2's feed-forward layer.

use crate::layers::{Block, PreNormBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: llama::attention(loader, config, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: loader.child("mlp").feed_forward("c_fc", "c_proj", config)?,
    }))
}
