//! OPT.

use super::layer_norm::{LayerNormFamily, with_biases};
use super::{MAX_WIDTH, Result, refuse_unless_neutral, refuse_unless_on};
use crate::ModelConfig;
use crate::config::BlockKind;
use crate::config::fields::Fields;

const FAMILY: LayerNormFamily = LayerNormFamily {
    hidden_size: &["hidden_size"],
    num_heads: &["num_attention_heads"],
    num_layers: &["num_hidden_layers"],
    intermediate_size: "ffn_dim",
    positions: (&["max_position_embeddings"], None),
    activation: ("activation_function", "relu"),
    norm_eps: "layer_norm_eps",
    tie_word_embeddings: true,
};

/// OPT: learned positions; norms before attention and feed-forward, or after them where `do_layer_norm_before` is off.
pub(crate) fn opt(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["_remove_final_layer_norm"])?;
    refuse_unless_on(fields, architecture, &["layer_norm_elementwise_affine"])?;
    let mut config = with_biases(FAMILY.read(fields, architecture)?, fields.flag("enable_bias", true)?);
    if let Some(width) = fields.optional_size("word_embed_proj_dim", 1..=MAX_WIDTH)? {
        config.embedding_size = width;
    }
    if !fields.flag("do_layer_norm_before", true)? {
        config.block = BlockKind::PostNorm;
    }
    Ok(config)
}
