//! Granite: Llama with a factor on embeddings, scores, residuals and logits.

use super::llama::with_biases;
use super::rotary::{RotaryFamily, agree_with_layer_types};
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::Multipliers;
use crate::config::fields::Fields;

const MULTIPLIERS: [&str; 4] =
    ["embedding_multiplier", "attention_multiplier", "residual_multiplier", "logits_scaling"];

/// Granite's four multipliers.
pub(crate) fn granite(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &MULTIPLIERS, &["sliding_window"])?;
    let mut config = with_biases(fields, RotaryFamily::llama(architecture).read(fields)?)?;
    config.multipliers = Multipliers {
        embedding: fields.positive("embedding_multiplier", 1.0)? as f32,
        residual: fields.positive("residual_multiplier", 1.0)? as f32,
        logits: (1.0 / fields.positive("logits_scaling", 1.0)?) as f32,
    };
    let scale = fields.positive("attention_multiplier", 1.0)? as f32;
    config.layers.iter_mut().for_each(|layer| layer.attention_scale = scale);
    agree_with_layer_types(fields, config)
}
