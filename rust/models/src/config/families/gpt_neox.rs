//! GPT-NeoX and Pythia.

use super::rotary::RotaryFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{BlockKind, NormKind};

/// GPT-NeoX: attention and feed-forward side by side unless `use_parallel_residual` is off, a part of each head rotates.
pub(crate) fn gpt_neox(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(
        fields,
        architecture,
        &["partial_rotary_factor", "rotary_pct", "use_parallel_residual"],
        &[],
    )?;
    let part = match fields.get("rotary_pct") {
        None => 0.25,
        Some(_) => fields.number("rotary_pct", "a number above 0, at most 1", |part| part > 0.0 && part <= 1.0)?,
    };
    let family = RotaryFamily {
        activation: ("hidden_act", "gelu"),
        norm_eps: ("layer_norm_eps", 1e-5),
        norm: NormKind::Layer { bias: true },
        rope_theta: fields.positive("rotary_emb_base", 10_000.0)?,
        partial_rotary_factor: Some(part),
        ..RotaryFamily::llama(architecture)
    };
    let bias = fields.flag("attention_bias", true)?;
    let mut config = family.read(fields)?;
    (config.attention.qkv_bias, config.attention.output_bias, config.feed_forward.bias) = (bias, bias, true);
    if fields.flag("use_parallel_residual", true)? {
        config.block = BlockKind::Parallel { shared_norm: false };
    }
    Ok(config)
}
