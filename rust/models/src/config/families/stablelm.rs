//! StableLM.

use super::rotary::RotaryFamily;
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::fields::Fields;
use crate::config::{BlockKind, NormKind, QkNorm};

/// StableLM: Llama with layer norms, rotary positions over a quarter of the head, perhaps biases
/// on queries, keys and values, normed heads, and both parts of a layer on one norm.
pub(crate) fn stablelm(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let own = ["partial_rotary_factor", "use_qkv_bias", "qk_layernorm", "use_parallel_residual"];
    refuse_unless_neutral(fields, architecture, &own, &["attention_bias", "mlp_bias", "sliding_window"])?;
    let family = RotaryFamily {
        norm: NormKind::Layer { bias: true },
        norm_eps: ("layer_norm_eps", 1e-5),
        partial_rotary_factor: Some(0.25),
        ..RotaryFamily::llama(architecture)
    };
    let mut config = family.read(fields)?;
    config.attention.qkv_bias = fields.flag("use_qkv_bias", false)?;
    config.attention.qk_norm = fields.flag("qk_layernorm", false)?.then_some(QkNorm::EachHead);
    if fields.flag("use_parallel_residual", false)? {
        config.block = BlockKind::Parallel { shared_norm: true };
    }
    Ok(config)
}
