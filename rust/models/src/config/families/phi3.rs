//! Phi-3 and Phi-4.

use super::rotary::{RotaryFamily, agree_with_layer_types, sliding_window, with_windows};
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

/// Phi-3: Llama with fused projections, perhaps rotary positions over a part of the head, and a window on every layer if on any.
pub(crate) fn phi3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["partial_rotary_factor"], &["attention_bias", "mlp_bias"])?;
    let family = RotaryFamily {
        norm_eps: ("rms_norm_eps", 1e-5),
        partial_rotary_factor: Some(1.0),
        ..RotaryFamily::llama(architecture)
    };
    let config = family.read(fields)?;
    let all = vec![true; config.num_layers()];
    agree_with_layer_types(fields, with_windows(config, sliding_window(fields, None)?, &all))
}
