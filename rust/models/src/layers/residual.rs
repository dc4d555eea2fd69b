use rustllm_ops::{Backend, Result, Tensor};

use super::Norm;

/// The sum every layer reads and adds to, `[num_tokens, hidden_size]`.
///
/// An output waits in `pending` until the next norm, which adds it and norms the sum in one op.
#[derive(Debug)]
pub(crate) struct ResidualStream {
    sum: Tensor,
    pending: Option<Tensor>,
}

impl ResidualStream {
    /// The stream that starts at the embeddings `x`, which it will write over.
    pub(crate) fn new(x: Tensor) -> Self {
        Self { sum: x, pending: None }
    }

    /// `norm` of the sum of all outputs so far.
    pub(crate) fn normed(&mut self, backend: &dyn Backend, norm: &Norm) -> Result<Tensor> {
        match self.pending.take() {
            Some(output) => norm.forward_added(backend, &output, &mut self.sum),
            None => norm.forward(backend, &self.sum),
        }
    }

    /// The sum of all outputs so far. The next output that is added writes over it.
    pub(crate) fn sum(&mut self, backend: &dyn Backend) -> Result<Tensor> {
        if let Some(output) = self.pending.take() {
            backend.add_assign(&mut self.sum, &output)?;
        }
        Ok(self.sum.clone())
    }

    /// Replaces the sum by its `norm`, which is returned.
    pub(crate) fn norm_in_place(&mut self, backend: &dyn Backend, norm: &Norm) -> Result<Tensor> {
        self.sum = self.normed(backend, norm)?;
        Ok(self.sum.clone())
    }

    /// Adds a layer's output.
    pub(crate) fn add(&mut self, backend: &dyn Backend, output: Tensor) -> Result<()> {
        match self.pending.replace(output) {
            Some(before) => backend.add_assign(&mut self.sum, &before),
            None => Ok(()),
        }
    }
}
