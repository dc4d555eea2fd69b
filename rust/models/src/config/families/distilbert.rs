//! DistilBERT's own field names.

use rustllm_ops::Activation;

use super::{EncoderSizes, MAX_WIDTH, Result, activation, refuse_unless_neutral};
use crate::config::encoder::EncoderConfig;
use crate::config::fields::Fields;

const SIZES: EncoderSizes =
    EncoderSizes { hidden: "dim", layers: "n_layers", heads: "n_heads", positions: "max_position_embeddings" };

/// DistilBERT: BERT without segments. Its sinusoidal positions are a table like the learned ones.
pub(crate) fn distilbert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    refuse_unless_neutral(fields, architecture, &[], &[])?;
    Ok(EncoderConfig {
        intermediate_size: fields.size("hidden_dim", 1..=MAX_WIDTH)?,
        hidden_act: activation(fields, "activation", "gelu")?,
        classifier_act: Activation::Relu,
        ..SIZES.read(fields)?
    })
}
