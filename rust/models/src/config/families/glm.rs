//! GLM-4: the models of 2024 (`glm`) and those of 2025 (`glm4`), whose configurations read alike.

use super::rotary::RotaryFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

/// GLM-4: neighbouring pairs of half of each head rotate; biases on queries, keys and values by switch, none on their output.
pub(crate) fn glm(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["partial_rotary_factor"], &["mlp_bias", "sliding_window"])?;
    let family = RotaryFamily {
        head_dim: Some(128),
        norm_eps: ("rms_norm_eps", 1.5625e-7),
        partial_rotary_factor: Some(0.5),
        interleaved: true,
        ..RotaryFamily::llama(architecture)
    };
    let mut config = family.read(fields)?;
    config.attention.qkv_bias = fields.flag("attention_bias", true)?;
    Ok(config)
}
