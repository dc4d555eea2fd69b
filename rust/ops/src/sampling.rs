//! Sampling on a device: tokens and log-probabilities of logits that stay there.
//!
//! ```text
//!   logits ──edit_logits──► masked, biased, penalized ──sample──► [rows, 2]: tokens and their logits
//!       └───────────────────logprobs
//! ```
//!
//! What parameters mean is for the engine's sampler to say, on the host; a device gives the same tokens and numbers, bit for bit.

use std::fmt::Debug;

use crate::{Indices, Result, Tensor};

/// A device that samples by itself.
pub trait DeviceSampler: Debug + Send + Sync {
    /// Draws a token for every row of `logits`, `[rows, vocab_size]`, with the rows [packed](SamplingRow::pack) in `rows`: `[rows, 2]`,
    /// the token (a whole number) and its logit, as [`Backend::argmax`](crate::Backend::argmax) has it.
    ///
    /// A logit that is not finite says that there is nothing to draw from: one of the row is NaN or `+inf`, or all are `-inf`.
    ///
    /// What is submitted depends on shapes alone: it may be [recorded](crate::Graphs), and launched with other rows.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for another number of rows, or an empty vocabulary or one that float32 cannot count.
    fn sample(&self, logits: &Tensor, rows: &Indices) -> Result<Tensor>;

    /// `logits` with each row's edits; `logits` stay as they are. NaN and `+inf` stay too, whatever the edits, for
    /// [`sample`](Self::sample) to find.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for another number of rows.
    fn edit_logits(&self, logits: &Tensor, rows: &[LogitsEdits<'_>]) -> Result<Tensor>;

    /// The most tokens that [`logprobs`](Self::logprobs) reports of a row.
    fn max_logprobs(&self) -> usize;

    /// For each request what the log-probabilities of its token and of the `top` likeliest are made of, once all work before is
    /// done.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a row or a token there is not, or more tokens than are reported.
    fn logprobs(&self, logits: &Tensor, requests: &[LogprobsRequest], top: usize) -> Result<Vec<RowLogprobs>>;
}

/// What a row's token is drawn with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingRow {
    /// The sequence's seed.
    pub seed: u64,
    /// The token's position in its sequence.
    pub position: u64,
    /// Multiplies the logits: positive and finite, or 0 for the likeliest token.
    pub inverse_temperature: f32,
    /// Smallest set of tokens whose probabilities reach this sum; 1 for all.
    pub top_p: f32,
    /// Tokens less likely than this share of the likeliest's probability are dropped.
    pub min_p: f32,
    /// Number of likeliest tokens to choose from; 0 for all.
    pub top_k: u32,
}

impl SamplingRow {
    /// Takes the likeliest token.
    pub const GREEDY: Self = Self { seed: 0, position: 0, inverse_temperature: 0.0, top_p: 1.0, min_p: 0.0, top_k: 0 };

    /// Words of a packed row.
    pub const WORDS: usize = 8;

    /// Rows as a device reads them, one after another: 64-bit numbers with their low word first, floats by their bits.
    pub fn pack(rows: &[Self]) -> Vec<u32> {
        rows.iter().flat_map(Self::words).collect()
    }

    fn words(&self) -> [u32; Self::WORDS] {
        let (low, high) = (|wide: u64| wide as u32, |wide: u64| (wide >> 32) as u32);
        [
            low(self.seed),
            high(self.seed),
            low(self.position),
            high(self.position),
            self.inverse_temperature.to_bits(),
            self.top_p.to_bits(),
            self.min_p.to_bits(),
            self.top_k,
        ]
    }
}

/// What is done to a row of logits, in this order. Ids past the vocabulary are passed over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LogitsEdits<'a> {
    /// The only tokens that may be drawn; `None` allows all.
    pub allowed: Option<&'a [u32]>,
    /// Tokens that may not be drawn.
    pub banned: Vec<u32>,
    /// Tokens and what is added to their logits; a token at most once.
    pub bias: &'a [(u32, f32)],
    /// What occurrences cost.
    pub penalties: Option<Penalties>,
}

/// Penalties on tokens that a sequence has.
#[derive(Debug, Clone, PartialEq)]
pub struct Penalties {
    /// Divides a positive logit and multiplies another, of every token of the sequence.
    pub repetition: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency: f32,
    /// Subtracted if the output has the token.
    pub presence: f32,
    /// The tokens of prompt and output, each once, and how often the output has them.
    pub counts: Vec<(u32, u32)>,
}

/// What is asked of a row of logits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogprobsRequest {
    /// The row.
    pub row: u32,
    /// The token that was drawn from it.
    pub token_id: u32,
}

/// A row's logits as far as they are reported. A logprob is `((logit - largest) - ln(total))`, in float64, as a float32.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLogprobs {
    /// The largest logit. It is not finite where the row is no distribution; nothing else then means anything.
    pub largest: f32,
    /// The sum of `e^(logit - largest)`.
    pub total: f64,
    /// The logit of the token asked for.
    pub logit: f32,
    /// One more than the number of greater logits.
    pub rank: u32,
    /// The likeliest tokens and their logits: by descending logit, equal ones by ascending id.
    pub likeliest: Vec<(u32, f32)>,
}
