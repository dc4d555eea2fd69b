//! The output projection of a language model: what it is made of, and what is kept of its result.

use crate::{Tensor, Weight};

/// From hidden states to logits: `soft_cap(multiplier * (hidden @ weight.T + bias))`.
#[derive(Debug, Clone)]
pub struct LmHeadParams {
    /// `[vocab_size, hidden_size]`.
    pub weight: Weight,
    /// `[1, vocab_size]`.
    pub bias: Option<Tensor>,
    /// Factor on the logits.
    pub multiplier: f32,
    /// What logits are kept below in magnitude, by a tanh.
    pub soft_cap: Option<f32>,
}

/// What is kept of the logits of a batch: all of some rows, of the others the likeliest token.
///
/// ```text
///   hidden            vocabulary ──►
///   row 0         [ logits ............ ]   logits   for requests that draw, mask, penalize or report: they are sampled
///   row 1         [ logits ............ ]            from
///   row 2         ( token, logit )          argmax   for greedy requests: a few bytes a row, whatever the vocabulary
///   row 3         ( token, logit )
/// ```
///
/// One product makes both, so that its weights are read once.
#[derive(Debug, Clone)]
pub struct Predictions {
    /// `[num_logits, vocab_size]`.
    pub logits: Tensor,
    /// `[rows - num_logits, 2]`, as [`Backend::argmax`](crate::Backend::argmax) has it.
    pub argmax: Tensor,
}
