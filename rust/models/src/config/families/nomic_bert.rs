//! NomicBERT's field names: its own, which came with the first checkpoints, or transformers' BERT-like ones.

use rustllm_ops::Activation;

use super::bert::bert;
use super::{EncoderSizes, MAX_POSITIONS, MAX_TYPES, MAX_WIDTH, Result, activation, epsilon, refuse_unless_neutral};
use crate::config::encoder::{Biases, EncoderConfig};
use crate::config::fields::Fields;
use crate::config::rope::RopeFamily;

/// The names of the first checkpoints.
const ORIGINAL_SIZES: EncoderSizes =
    EncoderSizes { hidden: "n_embd", layers: "n_layer", heads: "n_head", positions: "n_positions" };

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
    let config = ORIGINAL_SIZES.read(fields)?;
    let theta = fields.positive("rotary_emb_base", THETA)?;
    let positions = config.max_position_embeddings;
    let trained = fields.optional_size("max_trained_positions", 1..=MAX_POSITIONS)?.unwrap_or(positions);
    Ok(EncoderConfig {
        intermediate_size: fields.optional_size("n_inner", 1..=MAX_WIDTH)?.unwrap_or(4 * config.hidden_size),
        hidden_act: Activation::Silu,
        norm_eps: epsilon(fields, "layer_norm_epsilon", 1e-12)?,
        positions: None,
        type_vocab_size: fields.optional_size("type_vocab_size", 1..=MAX_TYPES)?.unwrap_or(2),
        rope: Some(RopeFamily { theta, ..RopeFamily::new(config.head_dim) }.read(fields, architecture)?),
        biases: Biases {
            attention: fields.flag("qkv_proj_bias", true)?,
            mlp: fields.flag("mlp_fc1_bias", true)?,
            ..Biases::ALL
        },
        max_model_len: positions.min(trained),
        ..config
    })
}
