//! Phi-1, 1.5 and 2.

use super::layer_norm::with_biases;
use super::rotary::RotaryFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{BlockKind, NormKind};

/// Phi: a parallel block of one norm, biases everywhere, a part of each head rotates.
pub(crate) fn phi(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["partial_rotary_factor"], &["qk_layernorm"])?;
    let family = RotaryFamily {
        activation: ("hidden_act", "gelu_new"),
        norm_eps: ("layer_norm_eps", 1e-5),
        norm: NormKind::Layer { bias: true },
        partial_rotary_factor: Some(0.5),
        ..RotaryFamily::llama(architecture)
    };
    let config = with_biases(family.read(fields)?, true);
    Ok(ModelConfig { block: BlockKind::Parallel { shared_norm: true }, ..config })
}
