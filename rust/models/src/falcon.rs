//! Falcon (arXiv:2311.16867): few key/value heads, rotary positions or ALiBi, attention and feed-forward side by side on one norm
//! (7b, 11b) or two (40b), or one after the other (rw).

use crate::config::BlockKind;
use crate::layers::{Block, Decoder, Embedding, ParallelBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "word_embeddings.weight");
    let tokens = base.token_embedding("word_embeddings", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("word_embeddings", &tokens))?;
    let blocks = base.blocks("h", config, block)?;
    let norm = base.norm("ln_f", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, Embedding::new(tokens), blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("self_attention");
    let qkv = attention.grouped_qkv("query_key_value", config)?;
    let attention = attention.attention(qkv, "dense", config, layer)?;
    let feed_forward = loader.child("mlp").feed_forward("dense_h_to_4h", "dense_4h_to_h", config)?;
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    let (first, second) = match config.block {
        BlockKind::Parallel { shared_norm: true } => {
            let norm = norm("input_layernorm")?;
            return Ok(Box::new(ParallelBlock { norm, attention, feed_forward }));
        }
        BlockKind::Parallel { shared_norm: false } => ("ln_attn", "ln_mlp"),
        _ => ("input_layernorm", "post_attention_layernorm"),
    };
    Ok(config.block.of((norm(first)?, attention), (norm(second)?, feed_forward)))
}

/// The frequencies that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    name.ends_with(".inv_freq")
}
