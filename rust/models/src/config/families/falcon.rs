//! Falcon.

use super::alibi::slopes;
use super::layer_norm::{LayerNormFamily, with_biases};
use super::rotary::with_rope;
use super::{Result, divide, refuse_unless_neutral, scale_of};
use crate::ModelConfig;
use crate::config::BlockKind;
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;

const FAMILY: LayerNormFamily = LayerNormFamily {
    hidden_size: &["hidden_size", "n_embed"],
    num_heads: &["num_attention_heads"],
    num_layers: &["num_hidden_layers"],
    intermediate_size: "ffn_hidden_size",
    positions: (&["max_position_embeddings"], Some(2048)),
    activation: ("activation", "gelu"),
    norm_eps: "layer_norm_epsilon",
    tie_word_embeddings: true,
};

/// Falcon: rotary positions or ALiBi; one key/value head, some (`new_decoder_architecture`) or all; attention and feed-forward
/// side by side on one norm or two, or (`parallel_attn` off) one after the other.
pub(crate) fn falcon(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["alibi", "parallel_attn"], &[])?;
    let mut config = with_biases(FAMILY.read(fields, architecture)?, fields.flag("bias", false)?);
    let num_heads = config.attention.num_heads;
    let new_decoder = fields.flag("new_decoder_architecture", false)?;
    if new_decoder {
        let num_kv_heads = fields.optional_size("num_kv_heads", 1..=num_heads)?.unwrap_or(num_heads);
        divide(fields, "num_attention_heads", num_heads, "num_kv_heads", num_kv_heads)?;
        config.attention.num_kv_heads = num_kv_heads;
    } else if fields.flag("multi_query", true)? {
        config.attention.num_kv_heads = 1;
    }
    let most_norms = if new_decoder { 2 } else { 1 };
    let norms = fields.optional_size("num_ln_in_parallel_attn", 1..=most_norms)?.unwrap_or(most_norms);
    if new_decoder || fields.flag("parallel_attn", true)? {
        config.block = BlockKind::Parallel { shared_norm: norms == 1 };
    }
    if fields.flag("alibi", false)? {
        // Falcon scales its biases as it scales scores.
        let scale = scale_of(config.attention.head_dim as f64);
        config.attention.alibi_slopes = Some(slopes(num_heads, 8.0).iter().map(|slope| slope * scale).collect());
        return Ok(config);
    }
    let rope = RopeFamily::new(config.attention.head_dim).read(fields, architecture)?;
    let max_model_len = rope.longest_context(config.max_position_embeddings);
    Ok(ModelConfig { max_model_len, ..with_rope(config, |_| Some(rope.clone())) })
}
