//! BLOOM (arXiv:2211.05100): ALiBi, a norm of the embeddings, fused projections head by head.

use crate::layers::{Block, Decoder, Embedding, PreNormBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "word_embeddings.weight");
    let tokens = base.token_embedding("word_embeddings", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("word_embeddings", &tokens))?;
    let norm = |name| base.norm(name, config.hidden_size, config.norm);
    let embedding = Embedding { norm: Some(norm("word_embeddings_layernorm")?), ..Embedding::new(tokens) };
    let blocks = base.blocks("h", config, block)?;
    Ok(Box::new(Decoder::new(config, embedding, blocks, norm("ln_f")?, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("self_attention");
    let qkv = attention.grouped_qkv("query_key_value", config)?;
    Ok(Box::new(PreNormBlock {
        attention_norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: attention.attention(qkv, "dense", config, layer)?,
        feed_forward_norm: loader.norm("post_attention_layernorm", config.hidden_size, config.norm)?,
        feed_forward: loader.child("mlp").feed_forward("dense_h_to_4h", "dense_4h_to_h", config)?,
    }))
}
