//! gpt-oss (arXiv:2508.10925): Llama with a sink a head, windows on every other layer, and biased experts.

use crate::layers::{Block, FeedForward, PreNormBlock};
use crate::llama::{attention, decoder};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let moe = config.moe.as_ref().expect("the family's configuration has experts");
    let mut attention = attention(loader, config, layer)?;
    attention.params.sinks = Some(loader.child("self_attn").sinks(config.attention.num_heads)?);
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: FeedForward::Moe(loader.child("mlp").biased_moe(config, moe)?),
    }))
}
