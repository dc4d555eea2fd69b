//! GPT-NeoX (arXiv:2204.06745) and Pythia: fused projections head by head, a part of each head rotates, attention and
//! feed-forward side by side or one after the other.

use crate::layers::{Block, Decoder, Embedding};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("gpt_neox", "embed_in.weight");
    let tokens = base.token_embedding("embed_in", config)?;
    let head = if loader.has("embed_out.weight") { "embed_out" } else { "lm_head" };
    let lm_head = loader.lm_head(head, config.tie_word_embeddings, &base, ("embed_in", &tokens))?;
    let blocks = base.blocks("layers", config, block)?;
    let norm = base.norm("final_layer_norm", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, Embedding::new(tokens), blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("attention");
    let qkv = attention.grouped_qkv("query_key_value", config)?;
    let attention = attention.attention(qkv, "dense", config, layer)?;
    let feed_forward = loader.child("mlp").feed_forward("dense_h_to_4h", "dense_4h_to_h", config)?;
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    Ok(config.block.of((norm("input_layernorm")?, attention), (norm("post_attention_layernorm")?, feed_forward)))
}

/// The masks and frequencies that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    [".attention.bias", ".attention.masked_bias", ".rotary_emb.inv_freq"].iter().any(|end| name.ends_with(end))
}
