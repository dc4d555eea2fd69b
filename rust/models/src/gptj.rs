//! GPT-J: attention and feed-forward side by side on one norm, neighbours rotate as pairs. CodeGen (arXiv:2203.13474) has its
//! queries, keys and values in one matrix.

use crate::layers::{Block, Decoder, Embedding, ParallelBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("transformer", "wte.weight");
    let tokens = base.token_embedding("wte", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("wte", &tokens))?;
    let lm_head = loader.with_bias(lm_head, "lm_head")?;
    let blocks = base.blocks("h", config, block)?;
    let norm = base.norm("ln_f", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, Embedding::new(tokens), blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("attn");
    let qkv = match &config.layers[layer].rope {
        Some(rope) if attention.has("qkv_proj.weight") => {
            attention.quartered_qkv("qkv_proj", rope.rotary_dim, config)?
        }
        _ => attention.qkv_linear("qkv_proj", ["q_proj", "k_proj", "v_proj"], config, layer)?,
    };
    Ok(Box::new(ParallelBlock {
        norm: loader.norm("ln_1", config.hidden_size, config.norm)?,
        attention: attention.attention(qkv, "out_proj", config, layer)?,
        feed_forward: loader.child("mlp").feed_forward("fc_in", "fc_out", config)?,
    }))
}

/// The masks that old checkpoints store as tensors.
pub(crate) fn is_buffer(name: &str) -> bool {
    [".attn.bias", ".attn.masked_bias", ".attn.causal_mask"].iter().any(|end| name.ends_with(end))
}
