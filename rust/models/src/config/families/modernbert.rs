//! ModernBERT's field names: BERT's sizes, and its own switches.

use super::bert::bert;
use super::rotary::layer_types;
use super::{MAX_LAYERS, MAX_POSITIONS, Result, activation, epsilon, refuse_unless_neutral};
use crate::config::encoder::{Biases, EncoderConfig, LocalLayers};
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;
use crate::pooler::Reduction;

/// ModernBERT: rotary positions, of another base in the layers that see their neighbours only.
pub(crate) fn modernbert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["rope_scaling"])?;
    let config = bert(fields, architecture)?;
    let theta = fields.positive("global_rope_theta", 160_000.0)?;
    let family = RopeFamily { theta, ..RopeFamily::new(config.head_dim) };
    let local_theta = Some(("local_rope_theta", 10_000.0));
    let (rope, local_rope) = family.read_by_layer_type(fields, architecture, local_theta)?;
    Ok(EncoderConfig {
        hidden_act: activation(fields, "hidden_activation", "gelu")?,
        norm_eps: epsilon(fields, "norm_eps", 1e-5)?,
        positions: None,
        type_vocab_size: 0,
        rope: Some(rope),
        local: Some(LocalLayers {
            window: fields.optional_size("local_attention", 1..=MAX_POSITIONS)?.unwrap_or(128) / 2,
            rope: local_rope,
            layers: local_layers(fields, config.num_layers)?,
        }),
        biases: Biases {
            attention: fields.flag("attention_bias", false)?,
            mlp: fields.flag("mlp_bias", false)?,
            norms: fields.flag("norm_bias", false)?,
            classifier: fields.flag("classifier_bias", false)?,
            decoder: fields.flag("decoder_bias", true)?,
        },
        classifier_pooling: match fields.text("classifier_pooling")? {
            None | Some("cls") => Reduction::Cls,
            Some("mean") => Reduction::Mean,
            Some(_) => return Err(fields.invalid("classifier_pooling", "cls or mean")),
        },
        classifier_act: activation(fields, "classifier_activation", "gelu")?,
        ..config
    })
}

/// Which layers are local: those `layer_types` says, or all but every third.
fn local_layers(fields: &Fields, num_layers: usize) -> Result<Vec<bool>> {
    if let Some(local) = layer_types(fields, num_layers)? {
        return Ok(local);
    }
    let every = fields.optional_size("global_attn_every_n_layers", 1..=MAX_LAYERS)?.unwrap_or(3);
    Ok((0..num_layers).map(|layer| !layer.is_multiple_of(every)).collect())
}
