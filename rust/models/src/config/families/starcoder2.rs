//! StarCoder2.

use super::rotary::{RotaryFamily, agree_with_layer_types, sliding_window, with_windows};
use super::{Result, refuse_unless_neutral};
use crate::ModelConfig;
use crate::config::NormKind;
use crate::config::fields::Fields;

/// StarCoder2: layer norms, biases everywhere unless switched off, a window on every layer if on any.
pub(crate) fn starcoder2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["use_bias"], &["attention_bias", "mlp_bias"])?;
    let family = RotaryFamily {
        activation: ("hidden_act", "gelu_pytorch_tanh"),
        norm: NormKind::Layer { bias: true },
        norm_eps: ("norm_epsilon", 1e-5),
        tie_word_embeddings: true,
        ..RotaryFamily::llama(architecture)
    };
    let mut config = family.read(fields)?;
    let bias = fields.flag("use_bias", true)?;
    (config.attention.qkv_bias, config.attention.output_bias, config.feed_forward.bias) = (bias, bias, bias);
    let all = vec![true; config.num_layers()];
    agree_with_layer_types(fields, with_windows(config, sliding_window(fields, None)?, &all))
}
