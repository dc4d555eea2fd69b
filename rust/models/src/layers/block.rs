use std::fmt::Debug;
use std::sync::Arc;

use rustllm_ops::Result;

use super::{Attention, FeedForward, Norm, ResidualStream};
use crate::ForwardContext;

/// One layer of a model: reads the stream and adds to it.
pub(crate) trait Block: Debug + Send + Sync {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()>;
}

/// A layer whose weights others have too.
impl<B: Block> Block for Arc<B> {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        self.as_ref().forward(ctx, stream)
    }
}

/// Attention, then feed-forward, each on a norm of the stream.
#[derive(Debug)]
pub(crate) struct PreNormBlock {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
}

impl Block for PreNormBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.normed(ctx.backend, &self.attention_norm)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        let x = stream.normed(ctx.backend, &self.feed_forward_norm)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)
    }
}
