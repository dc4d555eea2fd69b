//! The fields that GPT-2 and the decoders after it have in common, under the names that a family gives them.

use super::{Decoder, MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_WIDTH, Result, activation, divide, epsilon};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{AttentionConfig, FeedForwardConfig, NormConfig, NormKind};

/// How a family spells its fields, and what it says where the file does not. Of several spellings, the first that the file has
/// counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct LayerNormFamily {
    pub(super) hidden_size: &'static [&'static str],
    pub(super) num_heads: &'static [&'static str],
    pub(super) num_layers: &'static [&'static str],
    /// Four times the hidden size where the file does not say.
    pub(super) intermediate_size: &'static str,
    /// Longest sequence, and what it is where the file may leave it out.
    pub(super) positions: (&'static [&'static str], Option<usize>),
    /// Field of the activation, and what it is by default.
    pub(super) activation: (&'static str, &'static str),
    /// Field of the norms' epsilon.
    pub(super) norm_eps: &'static str,
    pub(super) tie_word_embeddings: bool,
}

impl LayerNormFamily {
    /// GPT-2's own, which many after it took over.
    pub(super) const GPT2: Self = Self {
        hidden_size: &["n_embd", "hidden_size"],
        num_heads: &["n_head", "num_attention_heads"],
        num_layers: &["n_layer", "num_hidden_layers"],
        intermediate_size: "n_inner",
        positions: (&["n_positions", "max_position_embeddings"], None),
        activation: ("activation_function", "gelu_new"),
        norm_eps: "layer_norm_epsilon",
        tie_word_embeddings: true,
    };

    /// Layers all alike, one part after the other, with biases everywhere; as many key/value heads as query heads; no rotary
    /// positions.
    pub(super) fn read(&self, fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
        let hidden_size = fields.size(spelling(fields, self.hidden_size), 1..=MAX_WIDTH)?;
        let attention = self.attention(fields, hidden_size)?;
        let intermediate_size = fields.optional_size(self.intermediate_size, 1..=MAX_WIDTH)?;
        let position_name = spelling(fields, self.positions.0);
        let positions = fields.optional_size(position_name, 1..=MAX_POSITIONS)?.or(self.positions.1);
        let positions = positions.ok_or_else(|| fields.missing(position_name))?;
        let decoder = Decoder {
            hidden_size,
            num_layers: fields.size(spelling(fields, self.num_layers), 1..=MAX_LAYERS)?,
            positions,
            attention,
            feed_forward: FeedForwardConfig {
                intermediate_size: intermediate_size.unwrap_or(4 * hidden_size),
                activation: activation(fields, self.activation.0, self.activation.1)?,
                bias: true,
            },
            norm: NormConfig { kind: NormKind::Layer { bias: true }, eps: epsilon(fields, self.norm_eps, 1e-5)? },
            tie_word_embeddings: self.tie_word_embeddings,
        };
        Ok(with_biases(decoder.read(fields, architecture)?, true))
    }

    fn attention(&self, fields: &Fields, hidden_size: usize) -> Result<AttentionConfig> {
        let name = spelling(fields, self.num_heads);
        let num_heads = fields.size(name, 1..=MAX_HEADS)?;
        let head_dim = divide(fields, spelling(fields, self.hidden_size), hidden_size, name, num_heads)?;
        Ok(AttentionConfig::new(num_heads, num_heads, head_dim))
    }
}

/// The configuration with biases on all linear layers, or on none.
pub(super) fn with_biases(mut config: ModelConfig, bias: bool) -> ModelConfig {
    (config.attention.qkv_bias, config.attention.output_bias) = (bias, bias);
    config.feed_forward.bias = bias;
    config
}

/// The first of `names` that the file has; the first of all if it has none.
fn spelling(fields: &Fields, names: &'static [&'static str]) -> &'static str {
    names.iter().find(|name| fields.get(name).is_some()).unwrap_or(&names[0])
}
