//! The sampler: one row of float32 logits in, one token out.
//!
//! A row goes through the steps of vLLM's sampler in vLLM's order:
//!
//! ```text
//!   logits ──► [raw_logprobs, raw_logits are of these]
//!     │ allowed_token_ids   others to -inf
//!     │ bad_words           a word's last token to -inf, where the output ends with the rest of the word
//!     │ min_tokens          end-of-sequence and stop tokens to -inf, while there are fewer output tokens
//!     │ logit_bias          added
//!     │ penalties           repetition (prompt and output), frequency, presence (output)
//!     ▼
//!   temperature 0? ──yes──► the largest logit, the lowest token id among equals
//!     │ no
//!     │ temperature         divided by
//!     │ min_p               drops what is less likely than min_p times the likeliest
//!     │ top_k               drops what is below the k-th largest logit; equals of the k-th stay
//!     │ top_p               keeps tokens by descending probability until p is reached; the one crossing p stays
//!     ▼
//!   [processed_logprobs, processed_logits are of these] ──► draw
//! ```
//!
//! **The draw** is the inverse of the cumulative distribution, in ascending order of token id, at one 53-bit number of
//! a counter-based generator (Philox4x32-10) keyed by the request's seed and the token's position in its sequence. A
//! token is thus a function of its logits row, parameters, history and seed, and of nothing else: not of the batch, the
//! thread, the `Sampler` or what it did before.
//!
//! **Bits.** Weights are float32, their sums float64 in a fixed order, and the exponential is this module's own, so the
//! same row gives the same token on every machine. Reported logprobs also take one platform logarithm per row, which
//! may differ in its last bit between platforms.

mod candidates;
mod logprobs;
mod penalties;
mod processors;
mod rng;
mod row_scan;
mod softmax;
#[cfg(test)]
mod tests;
mod truncation;

use rustllm_core::SamplingParams;
use rustllm_ops::{LogitsEdits, SamplingRow};

use candidates::Candidates;
pub(crate) use logprobs::of_device as logprobs_of_device;
pub use logprobs::{InvalidLogprobsMode, LogprobsMode};
pub use penalties::PenaltyState;
use row_scan::RowScan;

/// What a row is sampled with, besides its logits.
#[derive(Debug, Clone, Copy)]
pub struct SamplerInput<'a> {
    /// The request's parameters, validated.
    pub params: &'a SamplingParams,
    /// The sequence's prompt.
    pub prompt_token_ids: &'a [u32],
    /// The sequence's tokens generated so far. The prompt's length plus this one's is the position of the token to
    /// sample.
    pub output_token_ids: &'a [u32],
    /// End-of-sequence tokens of the model, kept out until `min_tokens` (also under `ignore_eos`).
    pub eos_token_ids: &'a [u32],
    /// The sequence's seed. Each of the `n` sequences of a request has its own.
    pub seed: u64,
    /// What the logprobs are of.
    pub logprobs_mode: LogprobsMode,
}

impl<'a> SamplerInput<'a> {
    /// Whether the token is the likeliest by the model's own logits, and nothing is reported of them: whoever knows the first
    /// largest logit of a row, if that is finite, knows what [`Sampler::sample`] gives.
    pub fn wants_argmax_only(&self) -> bool {
        self.params.is_greedy() && self.wants_token_only()
    }

    /// Whether the token is drawn from the model's own logits, and nothing is reported of them: whoever knows a row and
    /// [`sampling_row`](Self::sampling_row) knows what [`Sampler::sample`] gives.
    pub(crate) fn wants_token_only(&self) -> bool {
        self.params.logprobs.is_none() && !self.edits_logits()
    }

    /// Whether logits are changed before the token is drawn.
    pub(crate) fn edits_logits(&self) -> bool {
        processors::are_on(self)
    }

    /// How they are, for a device to do it. `penalty_state` is as [`Sampler::sample`] has it.
    pub(crate) fn edits(&self, penalty_state: &mut PenaltyState) -> LogitsEdits<'a> {
        processors::edits(self, penalty_state)
    }

    /// What a device draws the token with.
    pub(crate) fn sampling_row(&self) -> SamplingRow {
        let params = self.params;
        SamplingRow {
            seed: self.seed,
            position: self.position(),
            inverse_temperature: if params.is_greedy() { 0.0 } else { candidates::inverse(params.temperature) },
            top_p: params.top_p,
            min_p: params.min_p,
            top_k: params.top_k,
        }
    }

    /// The position of the token to sample.
    fn position(&self) -> u64 {
        (self.prompt_token_ids.len() + self.output_token_ids.len()) as u64
    }
}

/// A sampled token.
#[derive(Debug, Clone, PartialEq)]
pub struct SampledToken {
    /// The token, less than the row's length.
    pub token_id: u32,
    /// If `params.logprobs` is k: the sampled token first, then the k likeliest by descending logprob, equal ones by
    /// ascending id, among which the sampled one may be again.
    pub logprobs: Option<Vec<TokenLogprob>>,
}

/// A token's log-probability (or logit, see [`LogprobsMode`]) and its place in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TokenLogprob {
    /// The token.
    pub token_id: u32,
    /// Natural logarithm of the token's probability; `-inf` for a token that cannot be drawn.
    pub logprob: f32,
    /// One more than the number of tokens of strictly greater logit.
    pub rank: u32,
}

/// Why a row cannot be sampled. It concerns that row's sequence alone.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
pub enum SampleError {
    /// The row is empty.
    #[error("the logits row is empty")]
    EmptyVocabulary,
    /// The model, or an invalid bias, gave a logit no distribution can be made of.
    #[error("the logit of token {token_id} is {logit}; logits must be finite or -inf")]
    InvalidLogit {
        /// The first such token.
        token_id: u32,
        /// NaN or `+inf`.
        logit: f32,
    },
    /// Masks, or the model, left nothing to sample.
    #[error("all {vocab_size} tokens are masked: no token can be sampled")]
    AllMasked {
        /// The row's length.
        vocab_size: usize,
    },
    /// A prompt token whose logprob is asked for is not in the vocabulary.
    #[error("token {token_id} is outside the vocabulary of {vocab_size}")]
    TokenOutOfVocabulary {
        /// The token.
        token_id: u32,
        /// The row's length.
        vocab_size: usize,
    },
}

/// Samples rows one at a time. It holds scratch buffers only: any `Sampler` gives the same result for the same row, and
/// one per thread is enough. In the steady state only returned logprobs are allocated.
#[derive(Debug, Default)]
pub struct Sampler {
    raw_scan: RowScan,
    row: Vec<f32>,
    row_scan: RowScan,
    candidates: Candidates,
    processed: Vec<f32>,
    keys: Vec<u64>,
}

impl Sampler {
    /// A sampler with empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Samples a token of `logits`, one per token of the vocabulary.
    ///
    /// `penalty_state` belongs to the sequence and is touched only if `input.params` has penalties.
    ///
    /// # Errors
    /// An empty row, NaN or `+inf` in it, or every token masked.
    pub fn sample(
        &mut self,
        logits: &[f32],
        input: &SamplerInput<'_>,
        penalty_state: &mut PenaltyState,
    ) -> Result<SampledToken, SampleError> {
        self.raw_scan.scan(logits)?;
        let is_processed = processors::apply(logits, input, penalty_state, &mut self.row);
        let (row, scan) = if is_processed {
            self.row_scan.scan(&self.row)?;
            (self.row.as_slice(), &mut self.row_scan)
        } else {
            (logits, &mut self.raw_scan)
        };
        let is_greedy = input.params.is_greedy();
        let token_id = if is_greedy {
            scan.argmax(row)
        } else {
            self.candidates.fill(row, scan, input.params);
            self.candidates.draw(input.seed, input.position())
        };
        let Some(top) = input.params.logprobs else { return Ok(SampledToken { token_id, logprobs: None }) };

        let (row, scan) = match (input.logprobs_mode.is_processed(), is_greedy) {
            (false, _) => (logits, &mut self.raw_scan),
            (true, true) => (row, scan),
            (true, false) => {
                self.candidates.write_processed_logits(row, input.params.temperature, &mut self.processed);
                self.row_scan.scan(&self.processed)?;
                (self.processed.as_slice(), &mut self.row_scan)
            }
        };
        let normalised = input.logprobs_mode.is_normalised();
        let logprobs = logprobs::gather(row, scan, token_id, top, normalised, &mut self.keys);
        Ok(SampledToken { token_id, logprobs: Some(logprobs) })
    }

    /// Logprobs of a prompt position: `logits` are of the position before `next_token`. The prompt's own token first,
    /// then the `top` likeliest as in [`SampledToken::logprobs`]; `top < 0` is the vocabulary. Always raw logprobs.
    ///
    /// # Errors
    /// `next_token` outside the vocabulary, an empty row, NaN or `+inf` in it, nothing but `-inf`.
    pub fn prompt_logprobs(
        &mut self,
        logits: &[f32],
        next_token: u32,
        top: i32,
    ) -> Result<Vec<TokenLogprob>, SampleError> {
        if next_token as usize >= logits.len() {
            return Err(SampleError::TokenOutOfVocabulary { token_id: next_token, vocab_size: logits.len() });
        }
        self.raw_scan.scan(logits)?;
        Ok(logprobs::gather(logits, &mut self.raw_scan, next_token, top, true, &mut self.keys))
    }
}
