use rustllm_ops::{Activation, Backend, Result, Tensor};

use super::{Linear, Norm};

/// What turns hidden states, or a vector made of them, into scores or an embedding: layers one after another.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pub(crate) layers: Vec<HeadLayer>,
}

/// A layer of a [`Head`].
#[derive(Debug)]
pub(crate) enum HeadLayer {
    Linear(Linear),
    Activation(Activation),
    Norm(Norm),
}

impl Head {
    pub(crate) fn of<const N: usize>(layers: [HeadLayer; N]) -> Self {
        Self { layers: layers.into() }
    }

    /// `[rows, width]` to the last linear layer's width.
    pub(crate) fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.layers.iter().try_fold(x.clone(), |x, layer| match layer {
            HeadLayer::Linear(linear) => linear.forward(backend, &x),
            HeadLayer::Activation(activation) => backend.activation(&x, *activation),
            HeadLayer::Norm(norm) => norm.forward(backend, &x),
        })
    }

    /// Columns of the result, of `width` columns.
    pub(crate) fn out_features(&self, width: usize) -> usize {
        let linear = self.layers.iter().rev().find_map(|layer| match layer {
            HeadLayer::Linear(linear) => Some(linear.weight.out_features),
            HeadLayer::Activation(_) | HeadLayer::Norm(_) => None,
        });
        linear.unwrap_or(width)
    }
}

impl From<Linear> for HeadLayer {
    fn from(linear: Linear) -> Self {
        Self::Linear(linear)
    }
}

impl From<Activation> for HeadLayer {
    fn from(activation: Activation) -> Self {
        Self::Activation(activation)
    }
}

impl From<Norm> for HeadLayer {
    fn from(norm: Norm) -> Self {
        Self::Norm(norm)
    }
}
