//! GPT-J and CodeGen, which spell their fields as GPT-2 does.

use super::layer_norm::LayerNormFamily;
use super::rotary::with_rope;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::BlockKind;
use crate::config::fields::Fields;
use crate::rope::RopeConfig;

/// GPT-J: a parallel block of one norm; neighbours of the first `rotary_dim` elements of a head rotate. Attention has no biases.
pub(crate) fn gptj(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["rope_scaling", "rope_parameters"])?;
    let family = LayerNormFamily { tie_word_embeddings: false, ..LayerNormFamily::GPT2 };
    let mut config = family.read(fields, architecture)?;
    let head_dim = config.attention.head_dim;
    let rotary_dim = if fields.has("rotary_dim") { fields.size("rotary_dim", 2..=head_dim)? } else { 64 };
    if !rotary_dim.is_multiple_of(2) || rotary_dim > head_dim {
        return Err(fields.invalid("rotary_dim", format!("even, at most the {head_dim} elements of a head")));
    }
    (config.attention.qkv_bias, config.attention.output_bias) = (false, false);
    config.block = BlockKind::Parallel { shared_norm: true };
    let rope = RopeConfig { theta: 10_000.0, rotary_dim, interleaved: true, scaling: None };
    Ok(with_rope(config, |_| Some(rope.clone())))
}

/// CodeGen: GPT-J whose heads are trained in four shards.
pub(crate) fn codegen(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let config = gptj(fields, architecture)?;
    if config.attention.num_heads.is_multiple_of(4) {
        return Ok(config);
    }
    Err(fields.invalid("n_head", "divisible by 4, the shards of its projections"))
}
