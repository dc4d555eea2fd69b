//! Gemma 4 (text), and the text models of its checkpoints that read images and sound.

use rustllm_ops::{GatedActivation, RoutingParams, Scoring};

use super::gemma::{family, text_of_media, with_scaled_embeddings, with_soft_caps};
use super::llama::with_biases;
use super::moe::MAX_EXPERTS;
use super::rotary::{RotaryFamily, layer_types_or_pattern, sliding_window, with_rope, with_windows};
use super::{MAX_HEADS, MAX_LAYERS, MAX_VOCAB, MAX_WIDTH, Result, refuse_unless_neutral};
use crate::config::fields::Fields;
use crate::config::{MoeConfig, NormKind, PerLayerInputConfig, QkNorm, RopeConfig};
use crate::rope::RopeScaling;
use crate::{LoadError, ModelConfig};

/// What files may leave out.
const DEFAULTS: [(&str, usize); 8] = [
    ("vocab_size", 262_144),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 30),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("max_position_embeddings", 131_072),
    ("sliding_window", 512),
];

/// Of the variety whose one trunk reads everything: longer contexts and windows.
const UNIFIED_DEFAULTS: [(&str, usize); 2] = [("max_position_embeddings", 262_144), ("sliding_window", 1024)];

/// Gemma 4: Gemma 3 with plain norms, normed values, and heads of another size on layers without a window.
pub(crate) fn gemma4(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let fields = fields.clone().with_defaults(&DEFAULTS);
    let mut config = text(&fields, architecture, &[])?;
    config.per_layer_input = per_layer_input(&fields, config.vocab_size)?;
    if fields.flag("enable_moe_block", false)? {
        config.moe = Some(mixture(&fields, &config)?);
    }
    Ok(config)
}

/// The same without experts or layers' own inputs.
pub(crate) fn gemma4_unified(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let fields = fields.clone().with_defaults(&UNIFIED_DEFAULTS).with_defaults(&DEFAULTS);
    text(&fields, architecture, &["enable_moe_block", "hidden_size_per_layer_input"])
}

pub(crate) fn gemma4_text_of_media(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    text_of_media(fields, architecture, gemma4)
}

pub(crate) fn gemma4_unified_text_of_media(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    text_of_media(fields, architecture, gemma4_unified)
}

/// What both varieties have, but for the fields of `others`.
fn text(fields: &Fields, architecture: &'static str, others: &[&str]) -> Result<ModelConfig> {
    let implements = ["final_logit_softcapping", "num_experts", "use_bidirectional_attention"];
    refuse_unless_neutral(fields, architecture, &implements, &[others, &["mlp_bias"]].concat())?;
    // Tokens of images may see each other both ways; those of text never do.
    if !matches!(fields.text("use_bidirectional_attention")?, None | Some("vision")) {
        return Err(fields.unsupported("use_bidirectional_attention", architecture));
    }
    let family = RotaryFamily { norm: NormKind::Rms, ..family(architecture) };
    let config = with_biases(fields, family.read_without_positions(fields)?)?;
    let mut config = with_soft_caps(fields, with_scaled_embeddings(config), (None, None))?;
    config.attention.qk_norm = Some(QkNorm::Head);
    let mut windowed = layer_types_or_pattern(fields, config.num_layers(), 6)?;
    // Whatever the file says of it.
    windowed.last_mut().into_iter().for_each(|last| *last = false);
    let config = with_windows(config, sliding_window(fields, None)?, &windowed);
    let config = with_shared_kv(fields, with_layer_heads(fields, config, &windowed)?, &windowed)?;
    with_positions(fields, config, &family, &windowed)
}

/// Scores as they are, heads as `per_layer_config` has them or, for all layers without a window, the fields named `global`.
fn with_layer_heads(fields: &Fields, mut config: ModelConfig, windowed: &[bool]) -> Result<ModelConfig> {
    let (num_heads, usual) = (config.attention.num_heads, (config.attention.num_kv_heads, config.attention.head_dim));
    let keys_are_values = fields.flag("attention_k_eq_v", false)?;
    let by_layer = fields.object("per_layer_config")?;
    let head_dim = fields.optional_size("global_head_dim", 1..=MAX_HEADS)?.unwrap_or(512);
    let kv_heads = fields.optional_size("num_global_key_value_heads", 1..=num_heads)?.filter(|_| keys_are_values);
    for (index, layer) in config.layers.iter_mut().enumerate() {
        let (num_kv_heads, head_dim) = match &by_layer {
            Some(by_layer) => heads_of(by_layer, index, usual)?,
            None if windowed[index] => usual,
            None => (kv_heads.unwrap_or(usual.0), head_dim),
        };
        if !num_heads.is_multiple_of(num_kv_heads) {
            let allowed = format!("key/value heads that divide num_attention_heads ({num_heads})");
            return Err(fields.invalid("num_global_key_value_heads", allowed));
        }
        layer.attention_scale = 1.0;
        layer.kv_heads = Some((num_kv_heads, head_dim)).filter(|heads| *heads != usual);
        layer.keys_are_values = keys_are_values && !windowed[index];
    }
    Ok(config)
}

/// What `per_layer_config` says of a layer's key/value heads and their width.
fn heads_of(by_layer: &Fields, layer: usize, usual: (usize, usize)) -> Result<(usize, usize)> {
    let Some(heads) = by_layer.object(&layer.to_string())? else { return Ok(usual) };
    if let Some(other) = heads.names().find(|name| !["head_dim", "num_key_value_heads"].contains(name)) {
        return Err(heads.invalid(other, "absent: layers differ in head_dim and num_key_value_heads alone"));
    }
    let of = |name, usual| Ok::<_, LoadError>(heads.optional_size(name, 1..=MAX_HEADS)?.unwrap_or(usual));
    Ok((of("num_key_value_heads", usual.0)?, of("head_dim", usual.1)?))
}

/// The last `num_kv_shared_layers` read the keys and values of the last layer of their type before them; their feed-forward
/// layers may be twice as wide.
fn with_shared_kv(fields: &Fields, mut config: ModelConfig, windowed: &[bool]) -> Result<ModelConfig> {
    const NAME: &str = "num_kv_shared_layers";
    let num_layers = config.num_layers();
    let first = num_layers - fields.optional_size(NAME, 0..=num_layers)?.unwrap_or(0);
    let wide = fields.flag("use_double_wide_mlp", false)?.then_some(2 * config.feed_forward.intermediate_size);
    for layer in first..num_layers {
        let heads = config.layers[layer].kv_heads;
        let source = (0..first).rev().find(|source| windowed[*source] == windowed[layer]);
        let Some(source) = source.filter(|source| config.layers[*source].kv_heads == heads) else {
            return Err(fields.invalid(NAME, "so few that a layer of every type has keys and values of its own"));
        };
        config.layers[layer].kv_source = Some(source);
        config.layers[layer].intermediate_size = wide;
    }
    Ok(config)
}

/// Rotary positions by `rope_parameters`: without it, a quarter of the pairs turn on layers without a window.
fn with_positions(
    fields: &Fields,
    config: ModelConfig,
    family: &RotaryFamily,
    windowed: &[bool],
) -> Result<ModelConfig> {
    let mut ropes: Vec<RopeConfig> = Vec::with_capacity(config.num_layers());
    for (index, layer) in config.layers.iter().enumerate() {
        let head_dim = layer.kv_heads.map_or(config.attention.head_dim, |(_, head_dim)| head_dim);
        let layer_type = if windowed[index] { "sliding_attention" } else { "full_attention" };
        let read = family.rope(head_dim).read_of_layer_type(fields, config.architecture, layer_type)?;
        ropes.push(read.unwrap_or_else(|| {
            let scaling = RopeScaling::Proportional { factor: 1.0, num_pairs: head_dim / 8 };
            let (theta, scaling) = if windowed[index] { (10_000.0, None) } else { (1_000_000.0, Some(scaling)) };
            RopeConfig { theta, rotary_dim: head_dim, interleaved: false, scaling }
        }));
    }
    Ok(with_rope(config, |layer| Some(ropes[layer].clone())))
}

fn per_layer_input(fields: &Fields, vocab_size: usize) -> Result<Option<PerLayerInputConfig>> {
    let size = fields.optional_size("hidden_size_per_layer_input", 0..=MAX_WIDTH / MAX_LAYERS)?;
    let size = if fields.has("hidden_size_per_layer_input") { size.unwrap_or(0) } else { 256 };
    let vocab_size = fields
        .optional_size("vocab_size_per_layer_input", vocab_size..=MAX_VOCAB)?
        .unwrap_or_else(|| vocab_size.max(262_144));
    Ok((size > 0).then_some(PerLayerInputConfig { vocab_size, size }))
}

/// Experts beside every layer's feed-forward layer.
fn mixture(fields: &Fields, config: &ModelConfig) -> Result<MoeConfig> {
    let num_experts = fields.size("num_experts", 1..=MAX_EXPERTS)?;
    Ok(MoeConfig {
        num_experts,
        intermediate_size: fields.size("moe_intermediate_size", 1..=MAX_WIDTH)?,
        routing: RoutingParams {
            top_k: fields.size("top_k_experts", 1..=num_experts)?,
            scoring: Scoring::Softmax,
            groups: None,
            renormalize: true,
            scaling_factor: 1.0,
        },
        correction_bias: false,
        activation: GatedActivation::Plain(config.feed_forward.activation),
        shared: None,
        sparse_layers: vec![true; config.num_layers()],
    })
}
