//! BERT's field names, and those of the families that share them.

use rustllm_ops::Activation;

use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_TYPES, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral,
};
use crate::config::encoder::{Biases, EncoderConfig, Positions, SharedLayers};
use crate::config::fields::Fields;
use crate::pooler::Reduction;

/// BERT: learned positions and segments.
pub(crate) fn bert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["is_decoder"])?;
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(_) => return Err(fields.unsupported("position_embedding_type", architecture)),
    }
    let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_layers = fields.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    Ok(EncoderConfig {
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_layers,
        num_heads,
        head_dim: divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?,
        hidden_act: activation(fields, "hidden_act", "gelu")?,
        norm_eps: epsilon(fields, "layer_norm_eps", 1e-12)?,
        positions: Some(Positions::Absolute),
        max_position_embeddings: positions,
        type_vocab_size: fields.optional_size("type_vocab_size", 0..=MAX_TYPES)?.unwrap_or(2),
        rope: None,
        distances: None,
        convolution: None,
        local: None,
        shared: SharedLayers { groups: num_layers, layers: 1 },
        biases: Biases::ALL,
        classifier_pooling: Reduction::Cls,
        classifier_act: Activation::Tanh,
        max_model_len: positions,
        dtype: dtype(fields)?,
    })
}

/// RoBERTa: BERT whose positions are counted from the padding token's id.
pub(crate) fn roberta(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    let padding = fields.optional_size("pad_token_id", 0..=MAX_VOCAB)?.unwrap_or(1);
    after_padding(fields, padding, bert(fields, architecture)?)
}

/// ELECTRA: BERT with embeddings of a width of their own.
pub(crate) fn electra(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    let embedding_size = fields.optional_size("embedding_size", 1..=MAX_WIDTH)?.unwrap_or(128);
    Ok(EncoderConfig { embedding_size, ..bert(fields, architecture)? })
}

/// The positions that are left when those up to `padding` stand for none.
pub(super) fn after_padding(fields: &Fields, padding: usize, config: EncoderConfig) -> Result<EncoderConfig> {
    let positions = config.max_position_embeddings;
    let Some(max_model_len) = positions.checked_sub(padding + 1).filter(|len| *len > 0) else {
        return Err(fields.invalid("max_position_embeddings", format!("above the padding token's id ({padding}) + 1")));
    };
    Ok(EncoderConfig { positions: Some(Positions::AfterPadding(padding as u32)), max_model_len, ..config })
}
