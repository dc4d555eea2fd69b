//! BERT's field names, and those of the families that share them.

use super::{EncoderSizes, MAX_TYPES, MAX_VOCAB, MAX_WIDTH, Result, activation, epsilon, refuse_unless_neutral};
use crate::config::encoder::{EncoderConfig, Positions};
use crate::config::fields::Fields;

const SIZES: EncoderSizes = EncoderSizes {
    hidden: "hidden_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    positions: "max_position_embeddings",
};

/// BERT: learned positions and segments.
pub(crate) fn bert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["is_decoder"])?;
    match fields.text("position_embedding_type")? {
        None | Some("absolute") => {}
        Some(_) => return Err(fields.unsupported("position_embedding_type", architecture)),
    }
    Ok(EncoderConfig {
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        hidden_act: activation(fields, "hidden_act", "gelu")?,
        norm_eps: epsilon(fields, "layer_norm_eps", 1e-12)?,
        type_vocab_size: fields.optional_size("type_vocab_size", 0..=MAX_TYPES)?.unwrap_or(2),
        ..SIZES.read(fields)?
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
