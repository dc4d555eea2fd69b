//! NomicBERT's field names: its own, which came with the first checkpoints, or transformers' BERT-like ones.

use super::bert::bert;
use super::{
    MAX_HEADS, MAX_LAYERS, MAX_POSITIONS, MAX_TYPES, MAX_VOCAB, MAX_WIDTH, Result, activation, divide, dtype, epsilon,
    refuse_unless_neutral,
};
use crate::config::encoder::{Biases, EncoderConfig, SharedLayers};
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;
use crate::pooler::Reduction;

/// The base of its rotary frequencies.
const THETA: f64 = 1000.0;

/// Fields of its own files that ask for another model: absent, null, false, zero or one, they leave it as it is here.
const SWITCHES: [&str; 7] = [
    "causal",
    "parallel_block",
    "prenorm",
    "rotary_emb_interleaved",
    "rotary_emb_scale_base",
    "rotary_scaling_factor",
    "use_rms_norm",
];

/// NomicBERT: rotary positions, gated feed-forward layers.
pub(crate) fn nomic_bert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    if fields.has("n_embd") {
        return original(fields, architecture);
    }
    let config = bert(fields, architecture)?;
    let rope = RopeFamily { theta: THETA, ..RopeFamily::new(config.head_dim) }.read(fields, architecture)?;
    if fields.optional_size("head_dim", 1..=MAX_WIDTH)?.is_some_and(|head_dim| head_dim != config.head_dim) {
        return Err(fields.unsupported("head_dim", architecture));
    }
    Ok(EncoderConfig {
        hidden_act: activation(fields, "hidden_act", "silu")?,
        positions: None,
        rope: Some(rope),
        biases: Biases { attention: false, mlp: false, ..Biases::ALL },
        ..config
    })
}

/// The fields of the first checkpoints. Positions past those trained with would need frequencies that follow the length.
fn original(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &SWITCHES)?;
    let fraction = fields.positive("rotary_emb_fraction", 1.0)?;
    if fraction != 1.0 || fields.text("activation_function")? != Some("swiglu") {
        let name = if fraction == 1.0 { "activation_function" } else { "rotary_emb_fraction" };
        return Err(fields.unsupported(name, architecture));
    }
    let hidden_size = fields.size("n_embd", 1..=MAX_WIDTH)?;
    let num_layers = fields.size("n_layer", 1..=MAX_LAYERS)?;
    let num_heads = fields.size("n_head", 1..=MAX_HEADS)?;
    let head_dim = divide(fields, "n_embd", hidden_size, "n_head", num_heads)?;
    let positions = fields.size("n_positions", 1..=MAX_POSITIONS)?;
    let theta = fields.positive("rotary_emb_base", THETA)?;
    let trained = fields.optional_size("max_trained_positions", 1..=MAX_POSITIONS)?.unwrap_or(positions);
    Ok(EncoderConfig {
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        embedding_size: hidden_size,
        hidden_size,
        intermediate_size: fields.optional_size("n_inner", 1..=MAX_WIDTH)?.unwrap_or(4 * hidden_size),
        num_layers,
        num_heads,
        head_dim,
        hidden_act: rustllm_ops::Activation::Silu,
        norm_eps: epsilon(fields, "layer_norm_epsilon", 1e-12)?,
        positions: None,
        max_position_embeddings: positions,
        type_vocab_size: fields.optional_size("type_vocab_size", 1..=MAX_TYPES)?.unwrap_or(2),
        rope: Some(RopeFamily { theta, ..RopeFamily::new(head_dim) }.read(fields, architecture)?),
        distances: None,
        convolution: None,
        local: None,
        shared: SharedLayers { groups: num_layers, layers: 1 },
        biases: Biases {
            attention: fields.flag("qkv_proj_bias", true)?,
            mlp: fields.flag("mlp_fc1_bias", true)?,
            ..Biases::ALL
        },
        classifier_pooling: Reduction::Cls,
        classifier_act: rustllm_ops::Activation::Tanh,
        max_model_len: positions.min(trained),
        dtype: dtype(fields)?,
    })
}
