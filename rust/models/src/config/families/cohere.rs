//! Cohere's Command R, and its second generation.

use super::llama::with_biases;
use super::rotary::{RotaryFamily, layer_types_or_pattern, sliding_window, with_windows};
use super::{MAX_LAYERS, MAX_POSITIONS, Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{NormKind, QkNorm};

fn family(architecture: &'static str) -> RotaryFamily {
    RotaryFamily {
        norm: NormKind::Layer { bias: false },
        norm_eps: ("layer_norm_eps", 1e-5),
        tie_word_embeddings: true,
        interleaved: true,
        ..RotaryFamily::llama(architecture)
    }
}

/// Command R and R+, whose heads may be normed: attention and feed-forward side by side on one norm, scaled logits, neighbouring rotary pairs.
pub(crate) fn cohere(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["logit_scale", "use_qk_norm"], &["sliding_window", "mlp_bias"])?;
    let family = RotaryFamily { rope_theta: 500_000.0, ..family(architecture) };
    let mut config = with_logit_scale(fields, with_biases(fields, family.read(fields)?)?)?;
    config.attention.qk_norm = fields.flag("use_qk_norm", false)?.then_some(QkNorm::EachHead);
    Ok(config)
}

/// Command R7B and Command A: windows on all but every fourth layer, rotary positions on the windowed ones alone.
pub(crate) fn cohere2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["logit_scale"], &["mlp_bias"])?;
    let config = with_logit_scale(fields, with_biases(fields, family(architecture).read(fields)?)?)?;
    let pattern = fields.optional_size("sliding_window_pattern", 1..=MAX_LAYERS)?.unwrap_or(4);
    let windowed = layer_types_or_pattern(fields, config.num_layers(), pattern)?;
    let mut config = with_windows(config, sliding_window(fields, Some(4096))?, &windowed);
    for layer in config.layers.iter_mut().filter(|layer| layer.sliding_window.is_none()) {
        layer.rope = None;
    }
    Ok(config)
}

/// Logits scaled, and `model_max_length` where the file has it: `max_position_embeddings` is less than what the models are
/// made for.
fn with_logit_scale(fields: &Fields, mut config: ModelConfig) -> Result<ModelConfig> {
    config.multipliers.logits = fields.positive("logit_scale", 0.0625)? as f32;
    let longest = fields.optional_size("model_max_length", 1..=MAX_POSITIONS)?;
    config.max_model_len = longest.unwrap_or(config.max_model_len);
    Ok(config)
}
