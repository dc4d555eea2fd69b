//! Log-probabilities of the chosen and of the likeliest tokens.

use std::fmt;
use std::str::FromStr;

use super::TokenLogprob;
use super::row_scan::RowScan;
use super::softmax;

/// What is reported as a token's logprob (vLLM's `logprobs_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogprobsMode {
    /// log-softmax of the model's logits, before any processor.
    #[default]
    RawLogprobs,
    /// log-softmax of the logits that were sampled from: after processors, and unless greedy after temperature and
    /// truncation.
    ProcessedLogprobs,
    /// The model's logits.
    RawLogits,
    /// The logits that were sampled from; a token that cannot be drawn has `-inf`.
    ProcessedLogits,
}

impl LogprobsMode {
    /// Every mode, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::RawLogprobs, Self::ProcessedLogprobs, Self::RawLogits, Self::ProcessedLogits];

    /// The mode's name: `raw_logprobs`, `processed_logprobs`, `raw_logits` or `processed_logits`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RawLogprobs => "raw_logprobs",
            Self::ProcessedLogprobs => "processed_logprobs",
            Self::RawLogits => "raw_logits",
            Self::ProcessedLogits => "processed_logits",
        }
    }

    /// Whether logits after the processors are reported, not the model's.
    pub(super) fn is_processed(self) -> bool {
        matches!(self, Self::ProcessedLogprobs | Self::ProcessedLogits)
    }

    /// Whether values are normalised to log-probabilities.
    pub(super) fn is_normalised(self) -> bool {
        matches!(self, Self::RawLogprobs | Self::ProcessedLogprobs)
    }
}

impl fmt::Display for LogprobsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A `logprobs_mode` that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("logprobs_mode must be one of raw_logprobs, processed_logprobs, raw_logits, processed_logits; got {given:?}")]
pub struct InvalidLogprobsMode {
    /// The name that was given.
    pub given: String,
}

impl FromStr for LogprobsMode {
    type Err = InvalidLogprobsMode;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name)
            .ok_or_else(|| InvalidLogprobsMode { given: name.to_owned() })
    }
}

/// `chosen`, then the `top` likeliest tokens of `row` by descending logit, equal logits by ascending id (the chosen one
/// may be among them); `top < 0` is the vocabulary. `scan` is the scan of `row`; `keys` is scratch.
///
/// The natural logarithm is the platform's, taken once for the row.
pub(super) fn gather(
    row: &[f32],
    scan: &mut RowScan,
    chosen: u32,
    top: i32,
    normalised: bool,
    keys: &mut Vec<u64>,
) -> Vec<TokenLogprob> {
    let log_total = if normalised { softmax::sum_of_exponentials(row, scan.max()).ln() } else { 0.0 };
    let offset = if normalised { f64::from(scan.max()) } else { 0.0 };
    let value = |logit: f32| ((f64::from(logit) - offset) - log_total) as f32;
    let k = usize::try_from(top).map_or(row.len(), |top| top.min(row.len()));

    let logit = row[chosen as usize];
    let mut logprobs = Vec::with_capacity(k + 1);
    let rank = scan.count_greater(row, logit) + 1;
    logprobs.push(TokenLogprob { token_id: chosen, logprob: value(logit), rank });
    largest(row, scan, k, keys);
    let mut rank = 1;
    for (index, &key) in keys.iter().enumerate() {
        let token_id = key as u32;
        let logit = row[token_id as usize];
        if index > 0 && logit < row[keys[index - 1] as u32 as usize] {
            rank = index as u32 + 1;
        }
        logprobs.push(TokenLogprob { token_id, logprob: value(logit), rank });
    }
    logprobs
}

/// Leaves in `keys` one key per token of the `k` largest of `row`, in order; the low 32 bits of a key are the token id.
fn largest(row: &[f32], scan: &mut RowScan, k: usize, keys: &mut Vec<u64>) {
    keys.clear();
    if k == 0 {
        return;
    }
    scan.visit_largest(row, k, |token_id, logit| keys.push(descending_key(logit, token_id)));
    if keys.len() > k {
        keys.select_nth_unstable(k - 1);
        keys.truncate(k);
    }
    keys.sort_unstable();
}

/// Ascending keys are descending logits, then ascending ids. Adding zero makes -0 and 0 the same bits, as they are
/// equal.
fn descending_key(logit: f32, token_id: u32) -> u64 {
    let bits = (logit + 0.0).to_bits();
    let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    u64::from(!ascending) << 32 | u64::from(token_id)
}
