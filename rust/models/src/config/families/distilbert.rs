//! DistilBERT's own field names.

use rustllm_ops::Activation;

use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype,
    refuse_unless_neutral,
};
use crate::config::encoder::{Biases, EncoderConfig, Positions, SharedLayers};
use crate::config::fields::Fields;
use crate::pooler::Reduction;

/// DistilBERT: BERT without segments. Its sinusoidal positions are a table like the learned ones.
pub(crate) fn distilbert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &[])?;
    let hidden_size = fields.size("dim", 1..=MAX_WIDTH)?;
    let num_layers = fields.size("n_layers", 1..=MAX_LAYERS)?;
    let num_heads = fields.size("n_heads", 1..=MAX_HEADS)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    Ok(EncoderConfig {
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: fields.size("hidden_dim", 1..=MAX_WIDTH)?,
        num_layers,
        num_heads,
        head_dim: divide(fields, "dim", hidden_size, "n_heads", num_heads)?,
        hidden_act: activation(fields, "activation", "gelu")?,
        norm_eps: 1e-12,
        positions: Some(Positions::Absolute),
        max_position_embeddings: positions,
        type_vocab_size: 0,
        rope: None,
        distances: None,
        convolution: None,
        local: None,
        shared: SharedLayers { groups: num_layers, layers: 1 },
        biases: Biases::ALL,
        classifier_pooling: Reduction::Cls,
        classifier_act: Activation::Relu,
        max_model_len: positions,
        dtype: dtype(fields)?,
    })
}
