//! The field names that Llama's configuration set, and most decoders with rotary positions after it.

use super::{Decoder, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Result, activation, divide, epsilon};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;
use crate::config::{AttentionConfig, FeedForwardConfig, NormConfig, NormKind, RopeConfig};

/// What a family says where the file does not, and how it spells what others spell differently.
#[derive(Debug, Clone, Copy)]
pub(super) struct RotaryFamily {
    pub(super) architecture: &'static str,
    /// Elements of a head; `None`: the hidden size over the number of heads.
    pub(super) head_dim: Option<usize>,
    /// Field of the activation, and what it is by default.
    pub(super) activation: (&'static str, &'static str),
    /// Field of the norms' epsilon, and what it is by default.
    pub(super) norm_eps: (&'static str, f64),
    pub(super) norm: NormKind,
    pub(super) tie_word_embeddings: bool,
    /// Base of the rotary frequencies.
    pub(super) rope_theta: f64,
    /// The part of a head that rotates; `None`: all of it, always.
    pub(super) partial_rotary_factor: Option<f64>,
    /// Whether rotary pairs are neighbours.
    pub(super) interleaved: bool,
}

impl RotaryFamily {
    /// Llama's own defaults.
    pub(super) fn llama(architecture: &'static str) -> Self {
        Self {
            architecture,
            head_dim: None,
            activation: ("hidden_act", "silu"),
            norm_eps: ("rms_norm_eps", 1e-6),
            norm: NormKind::Rms,
            tie_word_embeddings: false,
            rope_theta: 10_000.0,
            partial_rotary_factor: None,
            interleaved: false,
        }
    }

    /// The rotary positions' side of the family, for heads of `head_dim`.
    pub(super) fn rope(&self, head_dim: usize) -> RopeFamily {
        RopeFamily {
            theta: self.rope_theta,
            partial_rotary_factor: self.partial_rotary_factor,
            interleaved: self.interleaved,
            ..RopeFamily::new(head_dim)
        }
    }

    /// All layers alike, with rotary positions, no biases and no windows.
    pub(super) fn read(&self, fields: &Fields) -> Result<ModelConfig> {
        let config = self.read_without_positions(fields)?;
        let rope = self.rope(config.attention.head_dim).read(fields, self.architecture)?;
        let max_model_len = rope.longest_context(config.max_position_embeddings);
        Ok(ModelConfig { max_model_len, ..with_rope(config, |_| Some(rope.clone())) })
    }

    /// The same with no positions in any layer yet.
    pub(super) fn read_without_positions(&self, fields: &Fields) -> Result<ModelConfig> {
        let decoder = Decoder {
            hidden_size: fields.size("hidden_size", 1..=MAX_WIDTH)?,
            num_layers: fields.size("num_hidden_layers", 1..=MAX_LAYERS)?,
            positions: fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?,
            attention: self.attention(fields)?,
            feed_forward: FeedForwardConfig {
                intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
                activation: activation(fields, self.activation.0, self.activation.1)?,
                bias: false,
            },
            norm: NormConfig { kind: self.norm, eps: epsilon(fields, self.norm_eps.0, self.norm_eps.1)? },
            tie_word_embeddings: self.tie_word_embeddings,
        };
        decoder.read(fields, self.architecture)
    }

    fn attention(&self, fields: &Fields) -> Result<AttentionConfig> {
        let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
        let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
        let num_kv_heads = fields.optional_size("num_key_value_heads", 1..=num_heads)?.unwrap_or(num_heads);
        divide(fields, "num_attention_heads", num_heads, "num_key_value_heads", num_kv_heads)?;
        let head_dim = match fields.optional_size("head_dim", 1..=MAX_HEADS)?.or(self.head_dim) {
            Some(head_dim) => head_dim,
            None => divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?,
        };
        Ok(AttentionConfig::new(num_heads, num_kv_heads, head_dim))
    }
}

/// Gives layers the positions that `rope` has for them by their index.
pub(super) fn with_rope(mut config: ModelConfig, rope: impl Fn(usize) -> Option<RopeConfig>) -> ModelConfig {
    for (index, layer) in config.layers.iter_mut().enumerate() {
        layer.rope = rope(index);
    }
    config
}

/// Gives layers the window where `windowed` says so, none elsewhere.
pub(super) fn with_windows(mut config: ModelConfig, window: Option<usize>, windowed: &[bool]) -> ModelConfig {
    for (layer, windowed) in config.layers.iter_mut().zip(windowed) {
        layer.sliding_window = window.filter(|_| *windowed);
    }
    config
}

/// `sliding_window`: a number of positions, null for none, `default` where the file has no such field.
pub(super) fn sliding_window(fields: &Fields, default: Option<usize>) -> Result<Option<usize>> {
    match fields.optional_size("sliding_window", 1..=MAX_POSITIONS)? {
        None if !fields.has("sliding_window") => Ok(default),
        window => Ok(window),
    }
}

/// Refuses a `layer_types` that says anything else than what the family computes.
pub(super) fn agree_with_layer_types(fields: &Fields, config: ModelConfig) -> Result<ModelConfig> {
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

/// Which layers have a sliding window: as `layer_types` says or, without it, all but every `pattern`-th.
pub(super) fn layer_types_or_pattern(fields: &Fields, num_layers: usize, pattern: usize) -> Result<Vec<bool>> {
    let by_pattern = || (0..num_layers).map(|layer| !(layer + 1).is_multiple_of(pattern)).collect();
    Ok(layer_types(fields, num_layers)?.unwrap_or_else(by_pattern))
}
