use rustllm_ops::{Activation, Backend, Result, Tensor, Weight};

use super::{Linear, Norm, ResidualStream};
use crate::ForwardContext;

/// From tokens to inputs that each layer has of its own.
///
/// ```text
///   tokens ─► table, for all layers side by side ────────────────┐
///   stream ─► projection, as wide ─► Norm of each layer's part ──┴─► mean, times the root of 2 ─► layers * size columns
/// ```
#[derive(Debug)]
pub(crate) struct PerLayerEmbedding {
    /// A row per token.
    pub(crate) tokens: Weight,
    /// Factor on the tokens' rows.
    pub(crate) multiplier: f32,
    /// Of the stream as it starts.
    pub(crate) projection: Linear,
    /// Factor on what it gives.
    pub(crate) projection_multiplier: f32,
    /// Of each layer's part of that.
    pub(crate) norm: Norm,
}

impl PerLayerEmbedding {
    /// The inputs of all layers, from the tokens and the embeddings `x` of those.
    pub(crate) fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let backend = ctx.backend;
        let mut projected = self.projection.forward(backend, x)?;
        backend.scale(&mut projected, self.projection_multiplier)?;
        let mut inputs = self.norm.forward(backend, &projected)?;
        let mut of_tokens = backend.embedding(&ctx.batch.token_ids, &self.tokens)?;
        backend.scale(&mut of_tokens, self.multiplier)?;
        backend.add_assign(&mut inputs, &of_tokens)?;
        backend.scale(&mut inputs, std::f32::consts::FRAC_1_SQRT_2)?;
        Ok(inputs)
    }
}

/// What a layer adds to the stream for its own input: `norm(projection(activation(gate(stream)) * input))`.
#[derive(Debug)]
pub(crate) struct PerLayerInput {
    /// To the input's width.
    pub(crate) gate: Linear,
    /// Of the gate.
    pub(crate) activation: Activation,
    /// Back to the stream's width.
    pub(crate) projection: Linear,
    /// Of what is added.
    pub(crate) norm: Norm,
    /// Which part of all layers' inputs is this one's.
    pub(crate) layer: usize,
}

impl PerLayerInput {
    pub(crate) fn add_to(&self, backend: &dyn Backend, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.sum(backend)?;
        let mut gated = backend.activated_linear(&x, &self.gate.weight, self.gate.bias.as_ref(), self.activation)?;
        let inputs = stream.layer_inputs().expect("a decoder whose layers have inputs computes them first");
        let input = inputs.columns(self.layer * gated.cols(), gated.cols())?;
        backend.mul_assign(&mut gated, &input)?;
        let output = self.projection.forward(backend, &gated)?;
        stream.add(backend, self.norm.forward(backend, &output)?)
    }
}
