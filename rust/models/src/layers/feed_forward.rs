use rustllm_ops::{Activation, Backend, Result, Tensor};

use super::{Linear, Moe};

/// The layer that works on each token alone.
#[derive(Debug)]
pub(crate) enum FeedForward {
    /// `down(activation(gate(x)) * up(x))` (arXiv:2002.05202).
    Gated {
        /// Gate and up projections side by side.
        gate_up: Linear,
        /// Back to the stream's width.
        down: Linear,
        /// Of the gate.
        activation: Activation,
    },
    /// Some experts out of many.
    Moe(Moe),
    /// `down(activation(up(x)))`.
    Plain {
        /// To the inner width.
        up: Linear,
        /// Back to the stream's width.
        down: Linear,
        /// Between the two.
        activation: Activation,
    },
}

impl FeedForward {
    pub(crate) fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        match self {
            Self::Gated { gate_up, down, activation } => {
                let inner = backend.gated_linear(x, &gate_up.weight, gate_up.bias.as_ref(), *activation)?;
                down.forward(backend, &inner)
            }
            Self::Moe(moe) => moe.forward(backend, x),
            Self::Plain { up, down, activation } => {
                let inner = backend.activated_linear(x, &up.weight, up.bias.as_ref(), *activation)?;
                down.forward(backend, &inner)
            }
        }
    }
}
