//! Phi-1, 1.5 (arXiv:2309.05463) and 2: attention and feed-forward side by side on one norm, biases everywhere, a part of each
//! head rotates.

use crate::layers::{Block, Decoder, Embedding, ParallelBlock};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("model", "embed_tokens.weight");
    let tokens = base.token_embedding("embed_tokens", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("embed_tokens", &tokens))?;
    let lm_head = loader.with_bias(lm_head, "lm_head")?;
    let blocks = base.blocks("layers", config, block)?;
    let norm = base.norm("final_layernorm", config.hidden_size, config.norm)?;
    Ok(Box::new(Decoder::new(config, Embedding::new(tokens), blocks, norm, lm_head)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("self_attn");
    let qkv = attention.qkv_linear("qkv_proj", ["q_proj", "k_proj", "v_proj"], config, layer)?;
    Ok(Box::new(ParallelBlock {
        norm: loader.norm("input_layernorm", config.hidden_size, config.norm)?,
        attention: attention.attention(qkv, "dense", config, layer)?,
        feed_forward: loader.child("mlp").feed_forward("fc1", "fc2", config)?,
    }))
}
