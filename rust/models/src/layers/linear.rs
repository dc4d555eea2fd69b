use rustllm_ops::{Backend, Result, Tensor, Weight};

/// `x @ weight.T + bias`.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[out_features, in_features]`.
    pub(crate) weight: Weight,
    /// `[1, out_features]`.
    pub(crate) bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        backend.linear(x, &self.weight, self.bias.as_ref())
    }
}
