//! GPT-2, and StarCoder's variant of it.

use super::layer_norm::LayerNormFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;

/// GPT-2: learned positions, layer norms, biases everywhere.
pub(crate) fn gpt2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &[])?;
    let mut config = LayerNormFamily::GPT2.read(fields, architecture)?;
    let scaled = fields.flag("scale_attn_weights", true)?;
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx", false)?;
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.attention_scale = if scaled { layer.attention_scale } else { 1.0 };
        layer.attention_scale /= if by_layer { (index + 1) as f32 } else { 1.0 };
    }
    Ok(config)
}

/// GPTBigCode: GPT-2 with one key/value head for all query heads, unless `multi_query` is off.
pub(crate) fn gpt_bigcode(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let mut config = gpt2(fields, architecture)?;
    if fields.flag("multi_query", true)? {
        config.attention.num_kv_heads = 1;
    }
    Ok(config)
}
