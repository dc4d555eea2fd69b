//! OLMo 2 and 3.

use super::llama::with_biases;
use super::rotary::{RotaryFamily, layer_types_or_pattern, sliding_window, with_rope, with_windows};
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::QkNorm;
use crate::config::fields::Fields;

/// OLMo 2: norms of outputs and not of inputs, queries and keys normed as whole rows.
pub(crate) fn olmo2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["sliding_window", "mlp_bias"])?;
    let family = RotaryFamily { norm_eps: ("rms_norm_eps", 1e-5), ..RotaryFamily::llama(architecture) };
    let mut config = with_biases(fields, family.read(fields)?)?;
    config.attention.qk_norm = Some(QkNorm::Row);
    Ok(config)
}

/// OLMo 3: OLMo 2 with a window on all but every fourth layer; a rope scaling is the full layers' alone.
pub(crate) fn olmo3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["mlp_bias"])?;
    let norm_eps = ("rms_norm_eps", 1e-5);
    let family = RotaryFamily { norm_eps, rope_theta: 500_000.0, ..RotaryFamily::llama(architecture) };
    let mut config = with_biases(fields, family.read_without_positions(fields)?)?;
    config.attention.qk_norm = Some(QkNorm::Row);
    let windowed = layer_types_or_pattern(fields, config.num_layers(), 4)?;
    let (full, sliding) = family.rope(config.attention.head_dim).read_by_layer_type(fields, architecture, None)?;
    config.max_model_len = full.longest_context(config.max_position_embeddings);
    let config = with_rope(config, |layer| Some(if windowed[layer] { sliding.clone() } else { full.clone() }));
    Ok(with_windows(config, sliding_window(fields, Some(4096))?, &windowed))
}
