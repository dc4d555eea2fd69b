//! DeBERTa's field names: BERT's sizes, and what distances stand for.

use serde_json::Value;

use super::bert::bert;
use super::{MAX_POSITIONS, MAX_TYPES, MAX_WIDTH, Result, activation, epsilon};
use crate::config::encoder::{ConvolutionConfig, DistanceConfig, EncoderConfig};
use crate::config::fields::Fields;

/// DeBERTa-v2 and v3: distances with keys and queries of their own.
pub(crate) fn deberta_v2(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    let config = bert(fields, architecture)?;
    // Without it, as where the field is absent, attention is another than any checkpoint was trained with.
    if !fields.flag("relative_attention", false)? {
        return Err(fields.unsupported("relative_attention", architecture));
    }
    // Other widths than these do not fit the layers around them.
    fields.optional_size("attention_head_size", config.head_dim..=config.head_dim)?;
    fields.optional_size("pooler_hidden_size", config.hidden_size..=config.hidden_size)?;
    let has_positions = fields.flag("position_biased_input", true)?;
    Ok(EncoderConfig {
        embedding_size: fields.optional_size("embedding_size", 1..=MAX_WIDTH)?.unwrap_or(config.hidden_size),
        norm_eps: epsilon(fields, "layer_norm_eps", 1e-7)?,
        positions: config.positions.filter(|_| has_positions),
        type_vocab_size: fields.optional_size("type_vocab_size", 0..=MAX_TYPES)?.unwrap_or(0),
        distances: Some(distances(fields, config.max_position_embeddings)?),
        convolution: convolution(fields)?,
        classifier_act: activation(fields, "pooler_hidden_act", "gelu")?,
        ..config
    })
}

fn distances(fields: &Fields, positions: usize) -> Result<DistanceConfig> {
    let reach = positive(fields, "max_relative_positions")?.unwrap_or(positions);
    let buckets = positive(fields, "position_buckets")?;
    if buckets.is_some_and(|buckets| buckets < 2 || reach <= buckets / 2 + 1) {
        let allowed = format!("at least 2, and its half below max_relative_positions ({reach}) - 1");
        return Err(fields.invalid("position_buckets", allowed));
    }
    let kinds = kinds(fields)?;
    Ok(DistanceConfig {
        span: buckets.unwrap_or(reach),
        logarithmic_to: buckets.map(|_| reach),
        keys: kinds.contains(&"c2p"),
        queries: kinds.contains(&"p2c"),
        share_projections: fields.flag("share_att_key", false)?,
        norm: match fields.text("norm_rel_ebd")? {
            None | Some("none") => false,
            Some("layer_norm") => true,
            Some(_) => return Err(fields.invalid("norm_rel_ebd", "none or layer_norm")),
        },
    })
}

/// A convolution of an odd number of rows; of an even one, outputs would be fewer than inputs.
fn convolution(fields: &Fields) -> Result<Option<ConvolutionConfig>> {
    let Some(size) = positive(fields, "conv_kernel_size")? else { return Ok(None) };
    if size % 2 == 0 {
        return Err(fields.invalid("conv_kernel_size", "an odd number, or 0 for none"));
    }
    fields.optional_size("conv_groups", 1..=1)?;
    Ok(Some(ConvolutionConfig { reach: size / 2, activation: activation(fields, "conv_act", "tanh")? }))
}

/// `pos_att_type`, a list or a text with bars between: `c2p` gives distances keys, `p2c` queries.
fn kinds(fields: &Fields) -> Result<Vec<&str>> {
    let kinds = match fields.get("pos_att_type") {
        Some(Value::String(kinds)) => kinds.split('|').map(str::trim).collect(),
        _ => fields.texts("pos_att_type")?.unwrap_or_default(),
    };
    match kinds.iter().all(|kind| ["c2p", "p2c"].contains(kind)) {
        true => Ok(kinds),
        false => Err(fields.invalid("pos_att_type", "c2p, p2c or both")),
    }
}

/// A whole number above zero; absent or below, it says nothing.
fn positive(fields: &Fields, name: &str) -> Result<Option<usize>> {
    match fields.get(name).and_then(Value::as_i64) {
        Some(..=0) => Ok(None),
        _ => fields.optional_size(name, 1..=MAX_POSITIONS),
    }
}
