use rustllm_ops::{Backend, Result, Tensor};

/// A normalization of rows, or of each head of a row where the weight is a head's width.
#[derive(Debug)]
pub(crate) enum Norm {
    /// Root mean square (arXiv:1910.07467).
    Rms {
        /// `[1, width]`.
        weight: Tensor,
        /// Added to the mean square.
        eps: f32,
    },
    /// Mean and variance (arXiv:1607.06450).
    Layer {
        /// `[1, width]`.
        weight: Tensor,
        /// `[1, width]`.
        bias: Option<Tensor>,
        /// Added to the variance.
        eps: f32,
    },
}

impl Norm {
    pub(crate) fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Rms { weight, eps } => backend.rms_norm(x, weight, *eps),
            Self::Layer { weight, bias, eps } => backend.layer_norm(x, weight, bias.as_ref(), *eps),
        }
    }

    /// `residual += x`, then the norm of it.
    pub(crate) fn forward_added(&self, backend: &dyn Backend, x: &Tensor, residual: &mut Tensor) -> Result<Tensor> {
        match self {
            Self::Rms { weight, eps } => backend.add_rms_norm(x, residual, weight, *eps),
            Self::Layer { weight, bias, eps } => backend.add_layer_norm(x, residual, weight, bias.as_ref(), *eps),
        }
    }
}
