//! OPT (arXiv:2205.01068): learned positions, ReLU; norms before each part of a layer, or (the 350m model) after it, with tokens
//! narrower than the stream.

use crate::config::BlockKind;
use crate::layers::{Block, Decoder, Embedding};
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

/// Rows of the position table before the first position's.
const POSITION_OFFSET: usize = 2;

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("model", "decoder.embed_tokens.weight").child("decoder");
    let tokens = base.token_embedding("embed_tokens", config)?;
    let lm_head = loader.lm_head("lm_head", config.tie_word_embeddings, &base, ("embed_tokens", &tokens))?;
    let (stream, narrow) = (config.hidden_size, config.embedding_size);
    let project = |name, to, from| (stream != narrow).then(|| base.linear(name, to, from, false)).transpose();
    let positions = base.embedding_after("embed_positions", POSITION_OFFSET, config.max_position_embeddings, stream)?;
    let projection = project("project_in", stream, narrow)?;
    let embedding = Embedding { projection, positions: Some(positions), ..Embedding::new(tokens) };
    let blocks = base.blocks("layers", config, block)?;
    let last = config.block == BlockKind::PreNorm;
    let norm = last.then(|| base.norm("final_layer_norm", stream, config.norm)).transpose()?;
    let decoder = Decoder::new(config, embedding, blocks, norm, lm_head);
    Ok(Box::new(decoder.narrowed(project("project_out", narrow, stream)?)))
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let attention = loader.child("self_attn");
    let qkv = attention.qkv_linear("qkv_proj", ["q_proj", "k_proj", "v_proj"], config, layer)?;
    let attention = attention.attention(qkv, "out_proj", config, layer)?;
    let feed_forward = loader.feed_forward("fc1", "fc2", config)?;
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    Ok(config.block.of((norm("self_attn_layer_norm")?, attention), (norm("final_layer_norm")?, feed_forward)))
}
