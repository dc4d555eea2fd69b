//! Gemma 2 (arXiv:2408.00118) and 3 (arXiv:2503.19786): Llama's parts between norms before and after. What else they differ in
//! is said by their configurations: caps, windows, two rotary bases, normed heads.

use crate::layers::{Block, SandwichBlock};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    llama::decoder(loader, config, block)
}

/// The text model of a checkpoint that has a vision tower as well.
pub(crate) fn build_text(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    build(&loader.child("language_model"), config)
}

/// What belongs to images, and what Llama's checkpoints may hold.
pub(crate) fn is_image_tensor(name: &str) -> bool {
    name.starts_with("vision_tower.") || name.starts_with("multi_modal_projector.") || llama::is_buffer(name)
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    Ok(Box::new(SandwichBlock {
        attention_norm: norm("input_layernorm")?,
        attention: llama::attention(loader, config, layer)?,
        attention_output_norm: norm("post_attention_layernorm")?,
        feed_forward_norm: norm("pre_feedforward_layernorm")?,
        feed_forward: llama::feed_forward(loader, config)?,
        feed_forward_output_norm: norm("post_feedforward_layernorm")?,
    }))
}
