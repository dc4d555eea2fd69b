//! gpt-oss.

use rustllm_ops::{GatedActivation, RoutingParams, Scoring};

use super::moe::MAX_EXPERTS;
use super::rotary::{RotaryFamily, layer_types_or_pattern, sliding_window, with_windows};
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::MoeConfig;
use crate::config::fields::Fields;

/// gpt-oss: windows on every other layer, experts with biases, weights that may be in MXFP4.
pub(crate) fn gpt_oss(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["num_local_experts", "quantization_config"], &["mlp_bias"])?;
    if let Some(quantization) = fields.object("quantization_config")?
        && quantization.text("quant_method")? != Some("mxfp4")
    {
        return Err(quantization.unsupported("quant_method", architecture));
    }
    // The family's default is YaRN for a context that files name; one that names none is not known to be any.
    if fields.get("rope_scaling").is_none() && fields.get("rope_parameters").is_none() {
        return Err(fields.missing("rope_scaling"));
    }
    let family = RotaryFamily {
        head_dim: Some(64),
        norm_eps: ("rms_norm_eps", 1e-5),
        rope_theta: 150_000.0,
        ..RotaryFamily::llama(architecture)
    };
    let mut config = family.read(fields)?;
    let bias = fields.flag("attention_bias", true)?;
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    let num_experts = fields.optional_size("num_local_experts", 1..=MAX_EXPERTS)?.unwrap_or(128);
    let top_k = fields.optional_size("num_experts_per_tok", 1..=num_experts)?.unwrap_or(4.min(num_experts));
    config.moe = Some(MoeConfig {
        num_experts,
        intermediate_size: config.feed_forward.intermediate_size,
        // A softmax over the chosen is one over all, renormalized.
        routing: RoutingParams {
            top_k,
            scoring: Scoring::Softmax,
            groups: None,
            renormalize: true,
            scaling_factor: 1.0,
        },
        correction_bias: false,
        activation: GatedActivation::ClampedSwiglu {
            alpha: fields.positive("swiglu_alpha", 1.702)? as f32,
            limit: fields.positive("swiglu_limit", 7.0)? as f32,
        },
        shared: None,
        sparse_layers: vec![true; config.num_layers()],
    });
    let windowed = layer_types_or_pattern(fields, config.num_layers(), 2)?;
    Ok(with_windows(config, sliding_window(fields, Some(128))?, &windowed))
}
