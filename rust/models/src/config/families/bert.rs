//! BERT's field names.

use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_TYPES, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral,
};
use crate::config::encoder::{EncoderConfig, Positions};
use crate::config::fields::Fields;

/// BERT: learned positions and segments.
pub(crate) fn bert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &["is_decoder"])?;
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(_) => return Err(fields.unsupported("position_embedding_type", architecture)),
    }
    let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    Ok(EncoderConfig {
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_layers: fields.size("num_hidden_layers", 1..=MAX_LAYERS)?,
        num_heads,
        head_dim: divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?,
        hidden_act: activation(fields, "hidden_act", "gelu")?,
        norm_eps: epsilon(fields, "layer_norm_eps", 1e-12)?,
        positions: Positions::Absolute,
        max_position_embeddings: positions,
        type_vocab_size: fields.optional_size("type_vocab_size", 0..=MAX_TYPES)?.unwrap_or(2),
        max_model_len: positions,
        dtype: dtype(fields)?,
    })
}
