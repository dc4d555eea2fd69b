//! Mixtures of experts whose attention is Llama's.

use rustllm_ops::{Activation, GatedActivation, RoutingParams, Scoring};
use serde_json::Value;

use super::llama::with_biases;
use super::rotary::{RotaryFamily, agree_with_layer_types, sliding_window, with_windows};
use super::{MAX_LAYERS, MAX_WIDTH, Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{MoeConfig, QkNorm, SharedExpertConfig};

/// More experts than any model has.
pub(super) const MAX_EXPERTS: usize = 65_536;

/// Mixtral: Mistral with every layer a mixture; windows only where the file has one.
pub(crate) fn mixtral(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["num_local_experts"], &["attention_bias", "mlp_bias"])?;
    let family =
        RotaryFamily { norm_eps: ("rms_norm_eps", 1e-5), rope_theta: 1e6, ..RotaryFamily::llama(architecture) };
    let mut config = family.read(fields)?;
    let (inner, all) = (config.feed_forward.intermediate_size, vec![true; config.num_layers()]);
    let routing = softmax_routing(fields, "num_local_experts", (8, 2), Some(true))?;
    config.moe = Some(mixture(routing, inner, config.feed_forward.activation, all.clone()));
    agree_with_layer_types(fields, with_windows(config, sliding_window(fields, None)?, &all))
}

/// OLMoE (arXiv:2409.02060): queries and keys normed over all heads, every layer a mixture.
pub(crate) fn olmoe(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["num_experts"], &["mlp_bias", "sliding_window"])?;
    let family = RotaryFamily { norm_eps: ("rms_norm_eps", 1e-5), ..RotaryFamily::llama(architecture) };
    let mut config = with_biases(fields, family.read(fields)?)?;
    config.attention.qk_norm = Some(QkNorm::Row);
    let (inner, all) = (config.feed_forward.intermediate_size, vec![true; config.num_layers()]);
    config.moe = Some(mixture(
        softmax_routing(fields, "num_experts", (64, 8), None)?,
        inner,
        config.feed_forward.activation,
        all,
    ));
    agree_with_layer_types(fields, config)
}

/// Qwen2-MoE: biases on queries, keys and values, a gated shared expert beside the others.
pub(crate) fn qwen2_moe(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["num_experts"], &["attention_bias", "mlp_bias"])?;
    let mut config = RotaryFamily::llama(architecture).read(fields)?;
    config.attention.qkv_bias = fields.flag("qkv_bias", true)?;
    let intermediate_size = fields.optional_size("shared_expert_intermediate_size", 1..=MAX_WIDTH)?.unwrap_or(5632);
    let shared = Some(SharedExpertConfig { intermediate_size, gated: true });
    let mixture = qwen_mixture(fields, &config, (60, 4), 1408)?;
    config.moe = Some(MoeConfig { shared, ..mixture });
    agree_with_layer_types(fields, config)
}

/// Qwen3-MoE: Qwen3 with most layers mixtures.
pub(crate) fn qwen3_moe(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let implements = ["num_experts", "num_local_experts"];
    refuse_unless_neutral(fields, architecture, &implements, &["mlp_bias"])?;
    let mut config = with_biases(fields, RotaryFamily::llama(architecture).read(fields)?)?;
    config.attention.qk_norm = Some(QkNorm::Head);
    config.moe = Some(qwen_mixture(fields, &config, (128, 8), 768)?);
    agree_with_layer_types(fields, config)
}

/// Qwen's experts, on every `decoder_sparse_step`-th layer that `mlp_only_layers` does not name.
fn qwen_mixture(fields: &Fields, config: &ModelConfig, defaults: (usize, usize), inner: usize) -> Result<MoeConfig> {
    let name = if fields.get("num_local_experts").is_some() { "num_local_experts" } else { "num_experts" };
    let routing = softmax_routing(fields, name, defaults, None)?;
    let intermediate_size = fields.optional_size("moe_intermediate_size", 1..=MAX_WIDTH)?.unwrap_or(inner);
    let step = fields.optional_size("decoder_sparse_step", 1..=MAX_LAYERS)?.unwrap_or(1);
    let dense = layer_numbers(fields, "mlp_only_layers")?;
    let sparse = |layer: usize| (layer + 1).is_multiple_of(step) && !dense.contains(&layer);
    let sparse_layers = (0..config.num_layers()).map(sparse).collect();
    Ok(mixture(routing, intermediate_size, config.feed_forward.activation, sparse_layers))
}

/// Experts of a layer, and how a token's are chosen by a softmax over all. `renormalize` is what the family always does, or
/// `norm_topk_prob`'s to say.
fn softmax_routing(
    fields: &Fields,
    experts: &str,
    (default_experts, default_top_k): (usize, usize),
    renormalize: Option<bool>,
) -> Result<(usize, RoutingParams)> {
    let num_experts = fields.optional_size(experts, 1..=MAX_EXPERTS)?.unwrap_or(default_experts);
    let top_k = fields.optional_size("num_experts_per_tok", 1..=num_experts)?.unwrap_or(default_top_k.min(num_experts));
    let renormalize = renormalize.map_or_else(|| fields.flag("norm_topk_prob", false), Ok)?;
    let scoring = Scoring::Softmax;
    Ok((num_experts, RoutingParams { top_k, scoring, groups: None, renormalize, scaling_factor: 1.0 }))
}

/// A mixture without shared experts.
fn mixture(
    (num_experts, routing): (usize, RoutingParams),
    intermediate_size: usize,
    activation: Activation,
    sparse_layers: Vec<bool>,
) -> MoeConfig {
    let activation = GatedActivation::Plain(activation);
    MoeConfig {
        num_experts,
        intermediate_size,
        routing,
        correction_bias: false,
        activation,
        shared: None,
        sparse_layers,
    }
}

fn layer_numbers(fields: &Fields, name: &str) -> Result<Vec<usize>> {
    let Some(value) = fields.get(name) else { return Ok(Vec::new()) };
    let number = |value: &Value| value.as_u64().and_then(|number| usize::try_from(number).ok());
    let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
    numbers.ok_or_else(|| fields.invalid(name, "a list of layers' numbers"))
}
