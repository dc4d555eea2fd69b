//! Gemma 1, 2 and 3 (text).

use rustllm_ops::Activation;

use super::llama::with_biases;
use super::rotary::{RotaryFamily, layer_types_or_pattern, sliding_window, with_rope, with_windows};
use super::{MAX_LAYERS, Result, dtype, refuse_unless_neutral, scale_of};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{NormKind, QkNorm};

/// What Gemma 2 and 3 have fields for and Llama has not.
const OWN: [&str; 3] = ["query_pre_attn_scalar", "attn_logit_softcapping", "final_logit_softcapping"];

pub(super) fn family(architecture: &'static str) -> RotaryFamily {
    RotaryFamily {
        head_dim: Some(256),
        activation: ("hidden_activation", "gelu_pytorch_tanh"),
        norm: NormKind::RmsPlusOne,
        tie_word_embeddings: true,
        ..RotaryFamily::llama(architecture)
    }
}

/// Gemma: Llama with scaled embeddings, norms whose weight counts from one, and a GELU by its tanh approximation, which the
/// first files call `gelu`.
pub(crate) fn gemma(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["sliding_window", "mlp_bias"])?;
    let family = RotaryFamily { activation: ("hidden_act", "gelu_pytorch_tanh"), ..family(architecture) };
    let mut config = with_scaled_embeddings(with_biases(fields, family.read(fields)?)?);
    if config.feed_forward.activation == Activation::Gelu {
        config.feed_forward.activation = Activation::GeluTanh;
    }
    Ok(config)
}

/// Gemma 2: norms before and after, capped scores and logits, a window on every other layer.
pub(crate) fn gemma2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &OWN, &["mlp_bias"])?;
    let config = with_scaled_scores(fields, with_biases(fields, family(architecture).read(fields)?)?)?;
    let config = with_soft_caps(fields, with_scaled_embeddings(config), (Some(50.0), Some(30.0)))?;
    let windowed = layer_types_or_pattern(fields, config.num_layers(), 2)?;
    Ok(with_windows(config, sliding_window(fields, Some(4096))?, &windowed))
}

/// Gemma 3: Gemma 2 with normed query and key heads in place of the caps, and another rotary base on windowed layers, which
/// are all but every sixth.
pub(crate) fn gemma3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &OWN, &["mlp_bias"])?;
    let family = RotaryFamily { rope_theta: 1_000_000.0, ..family(architecture) };
    let config = with_biases(fields, family.read_without_positions(fields)?)?;
    let config = with_scaled_scores(fields, with_scaled_embeddings(config))?;
    let mut config = with_soft_caps(fields, config, (None, None))?;
    config.attention.qk_norm = Some(QkNorm::Head);
    let pattern = fields.optional_size("sliding_window_pattern", 1..=MAX_LAYERS)?.unwrap_or(6);
    let windowed = layer_types_or_pattern(fields, config.num_layers(), pattern)?;
    // `max_position_embeddings` is the scaled context already.
    let rope = family.rope(config.attention.head_dim);
    let (full, sliding) = rope.read_by_layer_type(fields, architecture, Some(("rope_local_base_freq", 10_000.0)))?;
    let config = with_rope(config, |layer| Some(if windowed[layer] { sliding.clone() } else { full.clone() }));
    Ok(with_windows(config, sliding_window(fields, Some(4096))?, &windowed))
}

/// What Gemma 3's files with images leave out of `text_config`: the fields that are as in the 4B model.
const TEXT_DEFAULTS: [(&str, usize); 7] = [
    ("vocab_size", 262_208),
    ("hidden_size", 2304),
    ("intermediate_size", 9216),
    ("num_hidden_layers", 26),
    ("num_attention_heads", 8),
    ("num_key_value_heads", 4),
    ("max_position_embeddings", 131_072),
];

/// The text model of a Gemma 3 that takes images as well.
pub(crate) fn gemma3_text_of_images(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    text_of_media(fields, architecture, |text, architecture| {
        gemma3(&text.clone().with_defaults(&TEXT_DEFAULTS), architecture)
    })
}

/// The text model of a model that reads images as well, by `text_config`, which `read` reads.
pub(super) fn text_of_media(
    fields: &Fields,
    architecture: &'static str,
    read: impl Fn(&Fields, &'static str) -> Result<ModelConfig>,
) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &[])?;
    let text = fields.object("text_config")?.ok_or_else(|| fields.missing("text_config"))?;
    let mut config = read(&text, architecture)?;
    config.dtype = dtype(fields)?.or(config.dtype);
    let eos_token_ids = fields.token_ids("eos_token_id")?;
    if !eos_token_ids.is_empty() {
        config.eos_token_ids = eos_token_ids;
    }
    Ok(config)
}

pub(super) fn with_scaled_embeddings(mut config: ModelConfig) -> ModelConfig {
    config.multipliers.embedding = (config.hidden_size as f64).sqrt() as f32;
    config
}

/// Scores scaled by `query_pre_attn_scalar`, which stands where a head's width usually does.
fn with_scaled_scores(fields: &Fields, mut config: ModelConfig) -> Result<ModelConfig> {
    let width = fields.positive("query_pre_attn_scalar", 256.0)?;
    config.layers.iter_mut().for_each(|layer| layer.attention_scale = scale_of(width));
    Ok(config)
}

/// Caps of scores and logits: null for none, the defaults where the file has no such fields.
pub(super) fn with_soft_caps(
    fields: &Fields,
    mut config: ModelConfig,
    (scores, logits): (Option<f64>, Option<f64>),
) -> Result<ModelConfig> {
    let cap = |name, default: Option<f64>| match fields.get(name) {
        None if fields.has(name) => Ok(None),
        None => Ok(default.map(|cap| cap as f32)),
        Some(_) => fields.positive(name, 1.0).map(|cap| Some(cap as f32)),
    };
    config.attention.soft_cap = cap("attn_logit_softcapping", scores)?;
    config.logit_soft_cap = cap("final_logit_softcapping", logits)?;
    Ok(config)
}
