//! MPT: ALiBi, no biases, queries, keys and values kept within bounds where the model says so.

use crate::layers::{Block, Decoder, Embedding, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "wte.weight");
    let tokens = base.token_embedding("wte", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("wte", &tokens))?;
    let blocks = base.blocks("blocks", config, block)?;
    let norm = base.norm("norm_f", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, Embedding::new(tokens), blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("attn");
    let qkv = attention.linear("Wqkv", config.q_size() + 2 * config.kv_size(), config.hidden_size, false)?;
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("norm_1", config.hidden_size, config.norm)?,
        attention: attention.attention(qkv, "out_proj", config, layer)?,
        feed_forward_norm: loader.norm("norm_2", config.hidden_size, config.norm)?,
        feed_forward: loader.child("ffn").feed_forward("up_proj", "down_proj", config)?,
    }))
}
