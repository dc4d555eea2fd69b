//! MPNet's field names: BERT's, without segments.

use super::Result;
use super::bert::{after_padding, bert};
use crate::config::encoder::EncoderConfig;
use crate::config::fields::Fields;

/// Rows of the bias by distance, whatever the file says of them: the rule that deals distances to them is for these.
const BUCKETS: usize = 32;

/// The padding token's id that positions are counted from, whatever the file says.
const PADDING: usize = 1;

/// MPNet: RoBERTa's positions, and a bias by distance.
pub(crate) fn mpnet(fields: &Fields, architecture: &str) -> Result<EncoderConfig> {
    fields.optional_size("relative_attention_num_buckets", BUCKETS..=BUCKETS)?;
    let config = EncoderConfig { type_vocab_size: 0, ..bert(fields, architecture)? };
    after_padding(fields, PADDING, config)
}
