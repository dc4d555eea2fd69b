//! BLOOM.

use super::alibi::slopes;
use super::layer_norm::LayerNormFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

const FAMILY: LayerNormFamily = LayerNormFamily {
    hidden_size: &["n_embed", "hidden_size"],
    // Nothing ends ALiBi's positions: this is the context of training.
    positions: (&["seq_length"], Some(2048)),
    activation: ("hidden_act", "gelu_new"),
    ..LayerNormFamily::GPT2
};

/// BLOOM: ALiBi, a norm of the embeddings, biases everywhere.
pub(crate) fn bloom(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["apply_residual_connection_post_layernorm"])?;
    let mut config = FAMILY.read(fields, architecture)?;
    config.attention.alibi_slopes = Some(slopes(config.attention.num_heads, 8.0));
    Ok(config)
}
