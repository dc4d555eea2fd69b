//! ALBERT's field names: BERT's, and how layers share weights.

use super::bert::bert;
use super::{MAX_LAYERS, MAX_WIDTH, Result, activation};
use crate::config::encoder::{EncoderConfig, SharedLayers};
use crate::config::fields::Fields;

/// ALBERT: narrow embeddings, one group of weights for all layers unless the file says otherwise.
pub(crate) fn albert(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    let config = bert(fields, architecture)?;
    Ok(EncoderConfig {
        embedding_size: fields.optional_size("embedding_size", 1..=MAX_WIDTH)?.unwrap_or(128),
        hidden_act: activation(fields, "hidden_act", "gelu_new")?,
        shared: SharedLayers {
            groups: fields.optional_size("num_hidden_groups", 1..=config.num_layers)?.unwrap_or(1),
            layers: fields.optional_size("inner_group_num", 1..=MAX_LAYERS)?.unwrap_or(1),
        },
        ..config
    })
}
