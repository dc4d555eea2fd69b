//! StarCoder2 (arXiv:2402.19173): Llama with GPT-2's feed-forward layer.

use crate::layers::{Block, FeedForward, PreNormBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, inner, bias) = (config.hidden_size, config.feed_forward.intermediate_size, config.feed_forward.bias);
    let mlp = loader.child("mlp");
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", hidden, config.norm)?,
        attention: llama::attention(loader, config, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", hidden, config.norm)?,
        feed_forward: FeedForward::Plain {
            up: mlp.linear("c_fc", inner, hidden, bias)?,
            down: mlp.linear("c_proj", hidden, inner, bias)?,
            activation: config.feed_forward.activation,
        },
    }))
}
