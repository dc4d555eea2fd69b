//! Ernie 4.5, the dense models.

use super::layer_norm::with_biases;
use super::rotary::RotaryFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

/// Ernie 4.5: neighbouring rotary pairs, and one switch for all biases.
pub(crate) fn ernie4_5(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["use_bias"], &["attention_bias", "mlp_bias", "sliding_window"])?;
    let family = RotaryFamily {
        // Null is not absent: it means the hidden size over the number of heads.
        head_dim: (!fields.has("head_dim")).then_some(128),
        norm_eps: ("rms_norm_eps", 1e-5),
        tie_word_embeddings: true,
        rope_theta: 500_000.0,
        interleaved: true,
        ..RotaryFamily::llama(architecture)
    };
    Ok(with_biases(family.read(fields)?, fields.flag("use_bias", false)?))
}
