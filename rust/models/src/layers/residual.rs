use rustllm_ops::{Backend, Result, Tensor};

use super::Norm;

/// The sum every layer reads and adds to, `[num_tokens, hidden_size]`.
///
/// An output waits in `pending` until the next norm, which adds it and norms the sum in one op.
#[derive(Debug)]
pub(crate) struct ResidualStream {
    sum: Tensor,
    pending: Option<Tensor>,
    multiplier: f32,
    layer_inputs: Option<Tensor>,
}

impl ResidualStream {
    /// The stream that starts at the embeddings `x`, which it will write over, and takes outputs times `multiplier`.
    pub(crate) fn new(x: Tensor, multiplier: f32) -> Self {
        Self { sum: x, pending: None, multiplier, layer_inputs: None }
    }

    /// The stream beside which goes what layers read besides, if anything.
    pub(crate) fn with_layer_inputs(self, layer_inputs: Option<Tensor>) -> Self {
        Self { layer_inputs, ..self }
    }

    /// What layers read besides, side by side.
    pub(crate) fn layer_inputs(&self) -> Option<&Tensor> {
        self.layer_inputs.as_ref()
    }

    /// Multiplies the sum of all outputs so far.
    pub(crate) fn scale(&mut self, backend: &dyn Backend, factor: f32) -> Result<()> {
        self.sum(backend)?;
        backend.scale(&mut self.sum, factor)
    }

    /// The sum of all outputs so far. It is the stream's own: valid until the next output is added.
    pub(crate) fn sum(&mut self, backend: &dyn Backend) -> Result<Tensor> {
        if let Some(output) = self.pending.take() {
            backend.add_assign(&mut self.sum, &output)?;
        }
        Ok(self.sum.clone())
    }

    /// Starts anew at `norm` of the sum, and returns it: valid until the next output is added.
    pub(crate) fn renormed(&mut self, backend: &dyn Backend, norm: &Norm) -> Result<Tensor> {
        self.sum = self.normed(backend, norm)?;
        Ok(self.sum.clone())
    }

    /// `norm` of the sum of all outputs so far.
    pub(crate) fn normed(&mut self, backend: &dyn Backend, norm: &Norm) -> Result<Tensor> {
        match self.pending.take() {
            Some(output) => norm.forward_added(backend, &output, &mut self.sum),
            None => norm.forward(backend, &self.sum),
        }
    }

    /// Adds a layer's output, which it will write over.
    pub(crate) fn add(&mut self, backend: &dyn Backend, mut output: Tensor) -> Result<()> {
        if self.multiplier != 1.0 {
            backend.scale(&mut output, self.multiplier)?;
        }
        match self.pending.replace(output) {
            Some(before) => backend.add_assign(&mut self.sum, &before),
            None => Ok(()),
        }
    }
}
