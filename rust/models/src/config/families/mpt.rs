//! MPT.

use super::alibi::slopes;
use super::layer_norm::{LayerNormFamily, with_biases};
use super::{MAX_WIDTH, Result, refuse_unless_neutral, refuse_unless_on};
use crate::ModelConfig;
use crate::config::NormKind;
use crate::config::fields::Fields;

const FAMILY: LayerNormFamily = LayerNormFamily {
    hidden_size: &["d_model", "hidden_size"],
    num_heads: &["n_heads", "num_attention_heads"],
    num_layers: &["n_layers", "num_hidden_layers"],
    positions: (&["max_seq_len"], Some(2048)),
    activation: ("hidden_act", "gelu"),
    ..LayerNormFamily::GPT2
};

/// MPT: ALiBi, no biases. What attention does is in an object of its own.
pub(crate) fn mpt(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["ffn_config"])?;
    refuse_unless_on(fields, architecture, &["no_bias"])?;
    match fields.text("norm_type")? {
        // The precision they differ in is the kernel's own choice here.
        None | Some("low_precision_layernorm" | "layernorm") => {}
        Some(_) => return Err(fields.invalid("norm_type", "low_precision_layernorm or layernorm")),
    }
    let mut config = with_biases(FAMILY.read(fields, architecture)?, false);
    config.norm.kind = NormKind::Layer { bias: false };
    if let Some(ratio) = fields.optional_size("expansion_ratio", 1..=MAX_WIDTH / config.hidden_size)? {
        config.feed_forward.intermediate_size = ratio * config.hidden_size;
    }
    match fields.object("attn_config")? {
        Some(attention) => with_attention(config, &attention),
        None => Ok(with_slopes(config, 8.0)),
    }
}

fn with_attention(mut config: ModelConfig, fields: &Fields) -> Result<ModelConfig> {
    let own = ["prefix_lm", "qk_ln", "qk_gn", "attn_uses_sequence_id", "rope", "sliding_window_size"];
    refuse_unless_neutral(fields, config.architecture, &["alibi", "clip_qkv"], &own)?;
    refuse_unless_on(fields, config.architecture, &["alibi"])?;
    match fields.text("attn_type")? {
        None | Some("multihead_attention") => {}
        Some(_) => return Err(fields.invalid("attn_type", "multihead_attention")),
    }
    let positive = |name| fields.get(name).map(|_| fields.positive(name, 1.0)).transpose();
    // Zero and null are no limit.
    let limited = fields.get("clip_qkv").is_some_and(|limit| limit.as_f64() != Some(0.0));
    config.attention.clip_qkv = if limited { positive("clip_qkv")?.map(|limit| limit as f32) } else { None };
    if let Some(scale) = positive("softmax_scale")? {
        config.layers.iter_mut().for_each(|layer| layer.attention_scale = scale as f32);
    }
    let max_bias = fields.positive("alibi_bias_max", 8.0)?;
    Ok(with_slopes(config, max_bias))
}

fn with_slopes(mut config: ModelConfig, max_bias: f64) -> ModelConfig {
    config.attention.alibi_slopes = Some(slopes(config.attention.num_heads, max_bias));
    config
}
