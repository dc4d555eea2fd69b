//! DeepSeek-V2 and V3.

use rustllm_ops::{ExpertGroups, GatedActivation, GroupScore, RoutingParams, Scoring};

use super::moe::MAX_EXPERTS;
use super::rotary::{RotaryFamily, with_rope};
use super::{MAX_HEADS, MAX_LAYERS, MAX_WIDTH, Result, divide, refuse_unless_neutral, scale_of};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{LatentConfig, MoeConfig, SharedExpertConfig};

/// What every version implements that other families have not.
const IMPLEMENTS: [&str; 3] = ["n_routed_experts", "kv_lora_rank", "rope_interleave"];

/// Switches of the original code that are not here.
const REFUSED: [&str; 3] = ["attention_bias", "mlp_bias", "sliding_window"];

/// DeepSeek-V2: experts chosen by a softmax, from the groups with the best ones if so told.
pub(crate) fn deepseek_v2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &IMPLEMENTS, &[&REFUSED[..], &["norm_topk_prob"]].concat())?;
    one_of(fields, "scoring_func", &["softmax"])?;
    let groups = match one_of(fields, "topk_method", &["greedy", "group_limited_greedy"])? {
        Some("group_limited_greedy") => Some((1, 1, GroupScore::Best)),
        _ => None,
    };
    let routing = Routed { scoring: Scoring::Softmax, groups, renormalize: false, scaling_factor: 1.0, dense: 0 };
    let config = latent_decoder(fields, architecture, true)?;
    Ok(ModelConfig { moe: Some(mixture(fields, &config, routing)?), ..config })
}

/// DeepSeek-V3: experts chosen by sigmoids and a bias, from the groups with the best pairs.
pub(crate) fn deepseek_v3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &IMPLEMENTS, &REFUSED)?;
    one_of(fields, "scoring_func", &["sigmoid"])?;
    one_of(fields, "topk_method", &["noaux_tc"])?;
    let routing = Routed {
        scoring: Scoring::Sigmoid,
        groups: Some((8, 4, GroupScore::TwoBest)),
        renormalize: fields.flag("norm_topk_prob", true)?,
        scaling_factor: 2.5,
        dense: 3,
    };
    let config = latent_decoder(fields, architecture, fields.flag("rope_interleave", true)?)?;
    let moe = MoeConfig { correction_bias: true, ..mixture(fields, &config, routing)? };
    Ok(ModelConfig { moe: Some(moe), ..config })
}

/// Latent attention with rotary positions, every layer dense yet.
fn latent_decoder(fields: &Fields, architecture: &'static str, interleaved: bool) -> Result<ModelConfig> {
    let width = |name| fields.size(name, 1..=MAX_HEADS);
    let (rope_head_dim, v_head_dim) = (width("qk_rope_head_dim")?, width("v_head_dim")?);
    let head_dim = rope_head_dim + width("qk_nope_head_dim")?;
    // Values are filled up to a key's width, weights with them.
    if !(head_dim.div_ceil(8)..=head_dim).contains(&v_head_dim) {
        return Err(
            fields.invalid("v_head_dim", format!("at most a key's width ({head_dim}), and an eighth of it at least"))
        );
    }
    if !rope_head_dim.is_multiple_of(2) {
        return Err(fields.invalid("qk_rope_head_dim", "even"));
    }
    let family = RotaryFamily { head_dim: Some(head_dim), interleaved, ..RotaryFamily::llama(architecture) };
    let mut config = family.read_without_positions(fields)?;
    let attention = &mut config.attention;
    if attention.num_kv_heads != attention.num_heads {
        let allowed = format!("num_attention_heads ({})", attention.num_heads);
        return Err(fields.invalid("num_key_value_heads", allowed));
    }
    // `head_dim`, where files have it, is that of the part that rotates.
    attention.head_dim = head_dim;
    attention.latent = Some(LatentConfig {
        q_rank: fields.optional_size("q_lora_rank", 1..=MAX_WIDTH)?,
        kv_rank: fields.size("kv_lora_rank", 1..=MAX_WIDTH)?,
        rope_head_dim,
        v_head_dim,
    });
    let scale = scale_of(head_dim as f64) * yarn_scale(fields)?;
    config.layers.iter_mut().for_each(|layer| layer.attention_scale = scale);
    let rope = family.rope(rope_head_dim).read(fields, architecture)?;
    let max_model_len = rope.longest_context(config.max_position_embeddings);
    Ok(ModelConfig { max_model_len, ..with_rope(config, |_| Some(rope.clone())) })
}

/// What scores are multiplied with in longer contexts: the square of what YaRN's `mscale_all_dim` makes of its factor.
fn yarn_scale(fields: &Fields) -> Result<f32> {
    let object = match fields.object("rope_scaling")? {
        Some(object) => Some(object),
        None => fields.object("rope_parameters")?,
    };
    let Some(object) = object.filter(|object| object.get("mscale_all_dim").is_some()) else { return Ok(1.0) };
    let any = |_| true;
    let (factor, scale) =
        (object.number("factor", "a number", any)?, object.number("mscale_all_dim", "a number", any)?);
    Ok((0.1 * scale * factor.max(1.0).ln() + 1.0).powi(2) as f32)
}

/// How a version chooses experts, its defaults where the file says nothing.
struct Routed {
    scoring: Scoring,
    /// Number of groups, of those chosen, and how they are compared.
    groups: Option<(usize, usize, GroupScore)>,
    renormalize: bool,
    scaling_factor: f64,
    /// First layers that are dense.
    dense: usize,
}

fn mixture(fields: &Fields, config: &ModelConfig, routed: Routed) -> Result<MoeConfig> {
    let num_experts = fields.size("n_routed_experts", 1..=MAX_EXPERTS)?;
    let intermediate_size = fields.size("moe_intermediate_size", 1..=MAX_WIDTH)?;
    let shared = fields.optional_size("n_shared_experts", 0..=MAX_EXPERTS)?.unwrap_or(0);
    let dense = fields.optional_size("first_k_dense_replace", 0..=MAX_LAYERS)?.unwrap_or(routed.dense);
    fields.optional_size("moe_layer_freq", 1..=1)?;
    let groups = routed.groups.map(|defaults| expert_groups(fields, num_experts, defaults)).transpose()?;
    let reachable = groups.map_or(num_experts, |groups| num_experts / groups.num_groups * groups.topk_group);
    let routing = RoutingParams {
        top_k: fields.size("num_experts_per_tok", 1..=reachable)?,
        scoring: routed.scoring,
        groups,
        renormalize: routed.renormalize,
        scaling_factor: fields.positive("routed_scaling_factor", routed.scaling_factor)? as f32,
    };
    Ok(MoeConfig {
        num_experts,
        intermediate_size,
        routing,
        correction_bias: false,
        activation: GatedActivation::Plain(config.feed_forward.activation),
        shared: (shared > 0)
            .then_some(SharedExpertConfig { intermediate_size: shared * intermediate_size, gated: false }),
        sparse_layers: (0..config.num_layers()).map(|layer| layer >= dense).collect(),
    })
}

fn expert_groups(
    fields: &Fields,
    num_experts: usize,
    (num_groups, topk_group, score): (usize, usize, GroupScore),
) -> Result<ExpertGroups> {
    let num_groups = fields.optional_size("n_group", 1..=num_experts)?.unwrap_or(num_groups);
    divide(fields, "n_routed_experts", num_experts, "n_group", num_groups)?;
    let topk_group = fields.optional_size("topk_group", 1..=num_groups)?.unwrap_or(topk_group.min(num_groups));
    Ok(ExpertGroups { num_groups, topk_group, score })
}

/// A string that must be one of `allowed`, if present.
fn one_of<'a>(fields: &'a Fields, name: &str, allowed: &[&str]) -> Result<Option<&'a str>> {
    match fields.text(name)? {
        Some(text) if !allowed.contains(&text) => Err(fields.invalid(name, allowed.join(" or "))),
        text => Ok(text),
    }
}
