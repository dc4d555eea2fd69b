//! GPT-2's own field names.

use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral, scale_of,
};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{AttentionConfig, FeedForwardConfig, LayerConfig, Multipliers, NormConfig, NormKind};

/// GPT-2: learned positions, layer norms, biases everywhere.
pub(crate) fn gpt2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &[])?;
    let hidden_size = fields.size("n_embd", 1..=MAX_WIDTH)?;
    let num_heads = fields.size("n_head", 1..=MAX_HEADS)?;
    let head_dim = divide(fields, "n_embd", hidden_size, "n_head", num_heads)?;
    let num_layers = fields.size("n_layer", 1..=MAX_LAYERS)?;
    let positions = fields.size("n_positions", 1..=MAX_POSITIONS)?;
    let scale = if fields.flag("scale_attn_weights", true)? { scale_of(head_dim as f64) } else { 1.0 };
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx", false)?;
    let attention_scale = |layer: usize| if by_layer { scale / (layer + 1) as f32 } else { scale };
    let layer = |layer| LayerConfig { attention_scale: attention_scale(layer), sliding_window: None, rope: None };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        hidden_size,
        attention: AttentionConfig {
            num_heads,
            num_kv_heads: num_heads,
            head_dim,
            qkv_bias: true,
            output_bias: true,
            qk_norm: None,
            soft_cap: None,
        },
        feed_forward: FeedForwardConfig {
            intermediate_size: fields.optional_size("n_inner", 1..=MAX_WIDTH)?.unwrap_or(4 * hidden_size),
            activation: activation(fields, "activation_function", "gelu_new")?,
            bias: true,
        },
        norm: NormConfig { kind: NormKind::Layer { bias: true }, eps: epsilon(fields, "layer_norm_epsilon", 1e-5)? },
        layers: (0..num_layers).map(layer).collect(),
        multipliers: Multipliers::default(),
        logit_soft_cap: None,
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        max_position_embeddings: positions,
        max_model_len: positions,
        dtype: dtype(fields)?,
        eos_token_ids: fields.token_ids("eos_token_id")?,
    })
}
