//! ModernBERT's field names.

use super::rotary::layer_types;
use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral,
};
use crate::config::encoder::{Biases, EncoderConfig, LocalLayers, SharedLayers};
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;
use crate::pooler::Reduction;

/// ModernBERT: rotary positions, of another base in the layers that see their neighbours only.
pub(crate) fn modernbert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &["rope_scaling"])?;
    let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_layers = fields.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
    let head_dim = divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    let theta = fields.positive("global_rope_theta", 160_000.0)?;
    let family = RopeFamily { theta, ..RopeFamily::new(head_dim) };
    let local_theta = Some(("local_rope_theta", 10_000.0));
    let (rope, local_rope) = family.read_by_layer_type(fields, architecture, local_theta)?;
    Ok(EncoderConfig {
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_layers,
        num_heads,
        head_dim,
        hidden_act: activation(fields, "hidden_activation", "gelu")?,
        norm_eps: epsilon(fields, "norm_eps", 1e-5)?,
        positions: None,
        max_position_embeddings: positions,
        type_vocab_size: 0,
        rope: Some(rope),
        local: Some(LocalLayers {
            window: fields.optional_size("local_attention", 1..=MAX_POSITIONS)?.unwrap_or(128) / 2,
            rope: local_rope,
            layers: local_layers(fields, num_layers)?,
        }),
        shared: SharedLayers { groups: num_layers, layers: 1 },
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
        max_model_len: positions,
        dtype: dtype(fields)?,
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
