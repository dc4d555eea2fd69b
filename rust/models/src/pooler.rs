//! From hidden states to what a pooling request asks for.
//!
//! ```text
//!   one vector     rows of a sequence ─► Reduction ─► Head ─► finish       embed, classify
//!   by token       rows               ─────────────► Head ─► finish       token_embed, token_classify, fill_mask
//!
//!   Reduction  which row, or which mean, stands for the sequence           several: side by side
//!   Head       dense layers of sentence-transformers, classifiers, the vocabulary's projection
//!   finish     leading elements, length 1, softmax, sigmoid                on the host, in float32
//! ```

use rustllm_ops::{Backend, Result, Tensor};

use crate::config::encoder::ScoreActivation;
use crate::layers::Head;

/// What a model can be asked for besides text, by task; `None` where it lacks the layers.
#[derive(Debug, Default)]
pub struct Pooler {
    /// A vector for a prompt.
    pub embed: Option<PooledOutput>,
    /// A vector for each token.
    pub token_embed: Option<PooledOutput>,
    /// Scores of classes for a prompt.
    pub classify: Option<PooledOutput>,
    /// Scores of classes for each token.
    pub token_classify: Option<PooledOutput>,
    /// Scores of the vocabulary for each token.
    pub fill_mask: Option<PooledOutput>,
    /// Sizes that embeddings may be cut to; any size if the list is empty, none if there is none.
    pub matryoshka_dimensions: Option<Vec<usize>>,
}

/// One kind of output.
#[derive(Debug)]
pub struct PooledOutput {
    /// How a sequence's rows become one, side by side if several; empty where every row is kept.
    pub reductions: Vec<Reduction>,
    pub(crate) head: Head,
    /// Elements of a vector.
    pub size: usize,
    /// What the numbers may be finished with.
    pub finish: Finish,
    /// Whether they are, unless a request says otherwise.
    pub finishes: bool,
}

/// How the rows of a sequence become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// The first row.
    Cls,
    /// The last row.
    Last,
    /// The mean.
    Mean,
    /// The largest of each column.
    Max,
    /// The sum over the root of the number of rows.
    MeanSqrtLen,
    /// The mean weighted by the position, counted from 1 (SGPT, arXiv:2202.08904).
    WeightedMean,
}

/// The last step, on each vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// Nothing.
    Identity,
    /// To length 1.
    Normalize,
    /// Each element through the logistic function.
    Sigmoid,
    /// To probabilities that sum to 1.
    Softmax,
}

impl From<ScoreActivation> for Finish {
    fn from(activation: ScoreActivation) -> Self {
        match activation {
            ScoreActivation::Identity => Self::Identity,
            ScoreActivation::Sigmoid => Self::Sigmoid,
            ScoreActivation::Softmax => Self::Softmax,
        }
    }
}

impl PooledOutput {
    /// An output of `head` on vectors of `width` columns (a reduction's own, if there are several).
    pub(crate) fn new(reductions: &[Reduction], width: usize, head: Head, finish: Finish, finishes: bool) -> Self {
        let size = head.out_features(width * reductions.len().max(1));
        Self { reductions: reductions.to_vec(), head, size, finish, finishes }
    }

    /// Applies the layers to rows.
    ///
    /// # Errors
    /// A device failure.
    pub fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.head.forward(backend, x)
    }
}

impl Finish {
    /// Finishes one vector.
    pub fn apply(self, values: &mut [f32]) {
        match self {
            Self::Identity => {}
            Self::Normalize => {
                let squares: f64 = values.iter().map(|value| f64::from(*value).powi(2)).sum();
                // As torch's: a vector of zeros stays one.
                let length = squares.sqrt().max(1e-12);
                values.iter_mut().for_each(|value| *value = (f64::from(*value) / length) as f32);
            }
            Self::Sigmoid => {
                values.iter_mut().for_each(|value| *value = (1.0 / (1.0 + (-f64::from(*value)).exp())) as f32);
            }
            Self::Softmax => {
                let max = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
                let sum: f64 = values.iter().map(|value| f64::from(value - max).exp()).sum();
                values.iter_mut().for_each(|value| *value = (f64::from(*value - max).exp() / sum) as f32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finishes() {
        let mut values = [3.0, -4.0];
        Finish::Normalize.apply(&mut values);
        assert_eq!(values, [0.6, -0.8]);
        let mut zeros = [0.0; 3];
        Finish::Normalize.apply(&mut zeros);
        assert_eq!(zeros, [0.0; 3]);
        let mut scores = [1000.0, 1000.0];
        Finish::Softmax.apply(&mut scores);
        assert_eq!(scores, [0.5, 0.5]);
        let mut scores = [0.0, -1000.0, 1000.0];
        Finish::Sigmoid.apply(&mut scores);
        assert_eq!(scores, [0.5, 0.0, 1.0]);
    }
}
