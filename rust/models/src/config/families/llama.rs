//! Llama and the families that spell their fields as it does.

use rustllm_ops::RopeScaling;

use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral, scale_of,
};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{LayerConfig, RopeConfig};

/// Llama: biases by switch, rotary positions over the whole head.
pub(crate) fn llama(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let bias = fields.flag("attention_bias", false)?;
    refuse_unless_neutral(fields, architecture, &["sliding_window"])?;
    let config = ModelConfig {
        qkv_bias: bias,
        attention_output_bias: bias,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..rotary_decoder(fields, architecture, None)?
    };
    agree_with_layer_types(fields, config)
}

/// Mistral: Llama without biases, every layer with a sliding window unless it is null.
pub(crate) fn mistral(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["attention_bias", "mlp_bias"])?;
    let mut config = rotary_decoder(fields, architecture, None)?;
    let window = match fields.optional_size("sliding_window", 1..=MAX_POSITIONS)? {
        None if !fields.has("sliding_window") => Some(4096),
        window => window,
    };
    config.layers.iter_mut().for_each(|layer| layer.sliding_window = window);
    agree_with_layer_types(fields, config)
}

/// Qwen2: biases on the query, key and value projections only.
pub(crate) fn qwen2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["mlp_bias"])?;
    let config = ModelConfig { qkv_bias: true, ..rotary_decoder(fields, architecture, None)? };
    qwen_windows(fields, config)
}

/// Qwen3: normed query and key heads of 128 unless the file says otherwise, biases by switch.
pub(crate) fn qwen3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let bias = fields.flag("attention_bias", false)?;
    refuse_unless_neutral(fields, architecture, &["mlp_bias"])?;
    let config = ModelConfig {
        qk_norm: true,
        qkv_bias: bias,
        attention_output_bias: bias,
        ..rotary_decoder(fields, architecture, Some(128))?
    };
    qwen_windows(fields, config)
}

/// What the rotary decoders share: the field names that Llama's configuration set, no biases, no windows.
fn rotary_decoder(fields: &Fields, architecture: &'static str, default_head_dim: Option<usize>) -> Result<ModelConfig> {
    let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
    let num_kv_heads = fields.optional_size("num_key_value_heads", 1..=num_heads)?.unwrap_or(num_heads);
    divide(fields, "num_attention_heads", num_heads, "num_key_value_heads", num_kv_heads)?;
    let head_dim = match fields.optional_size("head_dim", 1..=MAX_HEADS)?.or(default_head_dim) {
        Some(head_dim) => head_dim,
        None => divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?,
    };
    let num_layers = fields.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    let rope = RopeConfig::read(fields, architecture, head_dim)?;
    let max_model_len = match rope.scaling {
        Some(RopeScaling::Linear { factor }) => (positions as f64 * f64::from(factor)) as usize,
        Some(RopeScaling::Llama3 { .. }) | None => positions,
    };
    let layer = LayerConfig { attention_scale: scale_of(head_dim), sliding_window: None };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_heads,
        num_kv_heads,
        head_dim,
        layers: vec![layer; num_layers],
        hidden_act: activation(fields, "hidden_act", "silu")?,
        norm_eps: epsilon(fields, "rms_norm_eps", 1e-6)?,
        rope: Some(rope),
        qk_norm: false,
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        max_position_embeddings: positions,
        max_model_len,
        dtype: dtype(fields)?,
        eos_token_ids: fields.token_ids("eos_token_id")?,
    })
}

/// Qwen's windows: none without `use_sliding_window`, else on the layers that `layer_types` names or, where the file has
/// no such list, on those from `max_window_layers` up.
fn qwen_windows(fields: &Fields, mut config: ModelConfig) -> Result<ModelConfig> {
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window", 1..=MAX_POSITIONS)?,
        false => None,
    };
    let first = fields.optional_size("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(28);
    match layer_types(fields, config.num_layers())? {
        Some(windowed) => {
            for (layer, windowed) in config.layers.iter_mut().zip(windowed) {
                layer.sliding_window = window.filter(|_| windowed);
            }
        }
        None => config.layers.iter_mut().skip(first).for_each(|layer| layer.sliding_window = window),
    }
    Ok(config)
}

/// Refuses a `layer_types` that says anything else than what the family computes.
fn agree_with_layer_types(fields: &Fields, config: ModelConfig) -> Result<ModelConfig> {
    let Some(windowed) = layer_types(fields, config.num_layers())? else { return Ok(config) };
    if config.layers.iter().zip(windowed).all(|(layer, windowed)| layer.sliding_window.is_some() == windowed) {
        return Ok(config);
    }
    Err(fields.unsupported("layer_types", config.architecture))
}

/// Which layers `layer_types` gives a sliding window, if the file has the list.
pub(super) fn layer_types(fields: &Fields, num_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = fields.texts("layer_types")? else { return Ok(None) };
    let known = ["full_attention", "sliding_attention"];
    if types.len() != num_layers || types.iter().any(|name| !known.contains(name)) {
        let allowed = format!("a list of {num_layers} entries, each full_attention or sliding_attention");
        return Err(fields.invalid("layer_types", allowed));
    }
    Ok(Some(types.iter().map(|name| *name == "sliding_attention").collect()))
}
