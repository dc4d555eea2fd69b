//! Llama and the families that differ from it by a switch.

use super::rotary::{RotaryFamily, agree_with_layer_types, layer_types, sliding_window, with_windows};
use super::{MAX_LAYERS, MAX_POSITIONS, Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::QkNorm;
use crate::config::fields::Fields;

/// Llama: biases by switch, rotary positions over the whole head.
pub(crate) fn llama(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["sliding_window"])?;
    let config = with_biases(fields, RotaryFamily::llama(architecture).read(fields)?)?;
    agree_with_layer_types(fields, config)
}

/// Arcee: Llama with a squared ReLU in place of the gate.
pub(crate) fn arcee(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["sliding_window"])?;
    let family = RotaryFamily {
        activation: ("hidden_act", "relu2"),
        norm_eps: ("rms_norm_eps", 1e-5),
        ..RotaryFamily::llama(architecture)
    };
    agree_with_layer_types(fields, with_biases(fields, family.read(fields)?)?)
}

/// Mistral: Llama without biases, every layer with a sliding window unless it is null.
pub(crate) fn mistral(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["attention_bias", "mlp_bias"])?;
    let config = RotaryFamily::llama(architecture).read(fields)?;
    let all = vec![true; config.num_layers()];
    agree_with_layer_types(fields, with_windows(config, sliding_window(fields, Some(4096))?, &all))
}

/// Qwen2: biases on the query, key and value projections only.
pub(crate) fn qwen2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["use_sliding_window"], &["mlp_bias"])?;
    let mut config = RotaryFamily::llama(architecture).read(fields)?;
    config.attention.qkv_bias = true;
    qwen_windows(fields, config)
}

/// Qwen3: normed query and key heads of 128 unless the file says otherwise, biases by switch.
pub(crate) fn qwen3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["use_sliding_window"], &["mlp_bias"])?;
    let family = RotaryFamily { head_dim: Some(128), ..RotaryFamily::llama(architecture) };
    let mut config = with_biases(fields, family.read(fields)?)?;
    config.attention.qk_norm = Some(QkNorm::Head);
    qwen_windows(fields, config)
}

/// Biases by Llama's switches: `attention_bias` for all of attention, `mlp_bias` for all of the feed-forward layers.
pub(super) fn with_biases(fields: &Fields, mut config: ModelConfig) -> Result<ModelConfig> {
    let bias = fields.flag("attention_bias", false)?;
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    config.feed_forward.bias = fields.flag("mlp_bias", false)?;
    Ok(config)
}

/// Qwen's windows: none without `use_sliding_window`, else on the layers that `layer_types` names or, where the file has
/// no such list, on those from `max_window_layers` up.
fn qwen_windows(fields: &Fields, config: ModelConfig) -> Result<ModelConfig> {
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window", 1..=MAX_POSITIONS)?,
        false => None,
    };
    let first = fields.optional_size("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(28);
    let from_first = || (0..config.num_layers()).map(|layer| layer >= first).collect();
    let windowed = layer_types(fields, config.num_layers())?.unwrap_or_else(from_first);
    Ok(with_windows(config, window, &windowed))
}
