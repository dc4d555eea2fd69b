//! GLM-4-0414 and GLM-Z1: GLM-4's parts, their outputs normed as well as their inputs. What Gemma 2 calls
//! `post_attention_layernorm` is here, as in Llama, the norm before the feed-forward layer.

use crate::layers::{Block, SandwichBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    Ok(Box::new(SandwichBlock {
        attention_norm: norm("input_layernorm")?,
        attention: llama::attention(loader, config, layer)?,
        attention_output_norm: norm("post_self_attn_layernorm")?,
        feed_forward_norm: norm("post_attention_layernorm")?,
        feed_forward: llama::feed_forward(loader, config)?,
        feed_forward_output_norm: norm("post_mlp_layernorm")?,
    }))
}
