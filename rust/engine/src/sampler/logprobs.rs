//! Log-probabilities of the chosen and of the likeliest tokens.

use std::fmt;
use std::str::FromStr;

use rustllm_ops::RowLogprobs;

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
    pub(crate) fn is_processed(self) -> bool {
        matches!(self, Self::ProcessedLogprobs | Self::ProcessedLogits)
    }

    /// Whether values are normalised to log-probabilities.
    pub(crate) fn is_normalised(self) -> bool {
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
pub(super) fn gather(
    row: &[f32],
    scan: &mut RowScan,
    chosen: u32,
    top: i32,
    normalised: bool,
    keys: &mut Vec<u64>,
) -> Vec<TokenLogprob> {
    let total = || softmax::sum_of_exponentials(row, scan.max());
    let scale = if normalised { Scale::logprobs(scan.max(), total()) } else { Scale::LOGITS };
    let k = usize::try_from(top).map_or(row.len(), |top| top.min(row.len()));
    let logit = row[chosen as usize];
    let rank = scan.count_greater(row, logit) + 1;
    largest(row, scan, k, keys);
    let likeliest = keys.iter().map(|key| *key as u32).map(|token_id| (token_id, row[token_id as usize]));
    list(TokenLogprob { token_id: chosen, logprob: scale.value(logit), rank }, likeliest, scale)
}

/// [`gather`] of what a device found in a row: the first `k` of the likeliest.
pub(crate) fn of_device(found: &RowLogprobs, chosen: u32, k: usize, normalised: bool) -> Vec<TokenLogprob> {
    let scale = if normalised { Scale::logprobs(found.largest, found.total) } else { Scale::LOGITS };
    let chosen = TokenLogprob { token_id: chosen, logprob: scale.value(found.logit), rank: found.rank };
    list(chosen, found.likeliest.iter().take(k).copied(), scale)
}

/// How what is reported is made of a logit.
#[derive(Clone, Copy)]
struct Scale {
    largest: f64,
    log_total: f64,
}

impl Scale {
    /// As it is.
    const LOGITS: Self = Self { largest: 0.0, log_total: 0.0 };

    /// The logarithm of the softmax of a row with that largest logit, and that sum of exponentials of the distances from it. The
    /// natural logarithm is the platform's, taken once for the row.
    fn logprobs(largest: f32, total: f64) -> Self {
        Self { largest: f64::from(largest), log_total: total.ln() }
    }

    fn value(self, logit: f32) -> f32 {
        ((f64::from(logit) - self.largest) - self.log_total) as f32
    }
}

/// `chosen`, then the likeliest tokens, which come with their logits in descending order.
fn list(chosen: TokenLogprob, likeliest: impl ExactSizeIterator<Item = (u32, f32)>, scale: Scale) -> Vec<TokenLogprob> {
    let mut logprobs = Vec::with_capacity(likeliest.len() + 1);
    logprobs.push(chosen);
    let (mut rank, mut before) = (1, f32::INFINITY);
    for (index, (token_id, logit)) in likeliest.enumerate() {
        if logit < before {
            (rank, before) = (index as u32 + 1, logit);
        }
        logprobs.push(TokenLogprob { token_id, logprob: scale.value(logit), rank });
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
