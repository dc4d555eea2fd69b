use rustllm_ops::{Backend, Result, Tensor};

use super::{Block, Moe, Norm, PerLayerInput, ResidualStream, SandwichBlock, SelfAttention};
use crate::ForwardContext;

/// As [`SandwichBlock`], perhaps with experts beside the feed-forward layer and an input of the layer's own; the stream is
/// scaled at the end (Gemma 4).
#[derive(Debug)]
pub(crate) struct SideInputBlock {
    pub(crate) sandwich: SandwichBlock<Box<dyn SelfAttention>>,
    pub(crate) experts: Option<ExpertsBeside>,
    pub(crate) input: Option<PerLayerInput>,
    /// Factor on the stream.
    pub(crate) scalar: f32,
}

impl Block for SideInputBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let backend = ctx.backend;
        let mut output = self.sandwich.forward_inner(ctx, stream)?;
        if let Some(experts) = &self.experts {
            output = experts.forward(backend, &output, &stream.sum(backend)?)?;
        }
        stream.add(backend, self.sandwich.feed_forward_output_norm.forward(backend, &output)?)?;
        if let Some(input) = &self.input {
            input.add_to(backend, stream)?;
        }
        stream.scale(backend, self.scalar)
    }
}

/// A mixture of experts beside a feed-forward layer, both normed before they are added.
///
/// ```text
///   stream ─┬─► Norm ─► feed-forward ─► Norm ─┐
///           ├─► Norm ─► experts ──────► Norm ─┴─► output
///           └─► Norm ─► router ────▲
/// ```
#[derive(Debug)]
pub(crate) struct ExpertsBeside {
    /// Of the feed-forward layer's output.
    pub(crate) dense_output_norm: Norm,
    pub(crate) router_norm: Norm,
    pub(crate) norm: Norm,
    pub(crate) moe: Moe,
    pub(crate) output_norm: Norm,
}

impl ExpertsBeside {
    /// The sum of both: of the feed-forward layer's output `dense`, and of the experts' for the stream `x`.
    fn forward(&self, backend: &dyn Backend, dense: &Tensor, x: &Tensor) -> Result<Tensor> {
        let mut sum = self.dense_output_norm.forward(backend, dense)?;
        let (of_router, of_experts) = (self.router_norm.forward(backend, x)?, self.norm.forward(backend, x)?);
        let output = self.moe.forward_routed(backend, &of_router, &of_experts)?;
        backend.add_assign(&mut sum, &self.output_norm.forward(backend, &output)?)?;
        Ok(sum)
    }
}
