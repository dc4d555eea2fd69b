use std::fmt::Debug;
use std::sync::Arc;

use rustllm_ops::{Result, Tensor};

use super::{Attention, FeedForward, Norm, ResidualStream, SelfAttention};
use crate::config::BlockKind;
use crate::loader::Loader;
use crate::{ForwardContext, LoadError, ModelConfig};

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

/// Builds layer `layer` from what is under its name.
pub(crate) type BuildBlock = fn(&Loader<'_>, &ModelConfig, usize) -> std::result::Result<Box<dyn Block>, LoadError>;

impl BlockKind {
    /// A layer of this kind of its parts, each with its norm.
    pub(crate) fn of(
        self,
        (attention_norm, attention): (Norm, Attention),
        (feed_forward_norm, feed_forward): (Norm, FeedForward),
    ) -> Box<dyn Block> {
        match self {
            Self::PreNorm => Box::new(PreNormBlock { attention_norm, attention, feed_forward_norm, feed_forward }),
            Self::PostNorm => Box::new(NormedSumBlock { attention, attention_norm, feed_forward, feed_forward_norm }),
            Self::Parallel { .. } => {
                Box::new(TwoNormParallelBlock { attention_norm, attention, feed_forward_norm, feed_forward })
            }
        }
    }
}

/// Attention, then feed-forward, each on a norm of the stream.
#[derive(Debug)]
pub(crate) struct PreNormBlock<A = Attention> {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: A,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
}

impl<A: SelfAttention> Block for PreNormBlock<A> {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.normed(ctx.backend, &self.attention_norm)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        let x = stream.normed(ctx.backend, &self.feed_forward_norm)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)
    }
}

/// As [`PreNormBlock`], each output normed once more before it is added (Gemma 2).
#[derive(Debug)]
pub(crate) struct SandwichBlock<A = Attention> {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: A,
    pub(crate) attention_output_norm: Norm,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_output_norm: Norm,
}

impl<A: SelfAttention> SandwichBlock<A> {
    /// The first half, and the output of the feed-forward layer before it is normed.
    pub(crate) fn forward_inner(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<Tensor> {
        let x = stream.normed(ctx.backend, &self.attention_norm)?;
        let output = self.attention.forward(ctx, &x)?;
        stream.add(ctx.backend, self.attention_output_norm.forward(ctx.backend, &output)?)?;
        let x = stream.normed(ctx.backend, &self.feed_forward_norm)?;
        self.feed_forward.forward(ctx.backend, &x)
    }
}

impl<A: SelfAttention> Block for SandwichBlock<A> {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let output = self.forward_inner(ctx, stream)?;
        stream.add(ctx.backend, self.feed_forward_output_norm.forward(ctx.backend, &output)?)
    }
}

/// Attention, then feed-forward, each on the stream itself, their outputs normed (OLMo 2).
#[derive(Debug)]
pub(crate) struct PostNormBlock {
    pub(crate) attention: Attention,
    pub(crate) attention_output_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_output_norm: Norm,
}

impl Block for PostNormBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let output = self.attention.forward(ctx, &stream.sum(ctx.backend)?)?;
        stream.add(ctx.backend, self.attention_output_norm.forward(ctx.backend, &output)?)?;
        let output = self.feed_forward.forward(ctx.backend, &stream.sum(ctx.backend)?)?;
        stream.add(ctx.backend, self.feed_forward_output_norm.forward(ctx.backend, &output)?)
    }
}

/// Attention, then feed-forward, each followed by a norm of the stream, which then starts anew.
#[derive(Debug)]
pub(crate) struct NormedSumBlock {
    pub(crate) attention: Attention,
    pub(crate) attention_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_norm: Norm,
}

impl Block for NormedSumBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.sum(ctx.backend)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        let x = stream.renormed(ctx.backend, &self.attention_norm)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)?;
        stream.renormed(ctx.backend, &self.feed_forward_norm).map(drop)
    }
}

/// Attention and feed-forward side by side, both on the same norm of the stream.
#[derive(Debug)]
pub(crate) struct ParallelBlock {
    pub(crate) norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) feed_forward: FeedForward,
}

impl Block for ParallelBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.normed(ctx.backend, &self.norm)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)
    }
}

/// Attention and feed-forward side by side, each on a norm of its own.
#[derive(Debug)]
pub(crate) struct TwoNormParallelBlock {
    pub(crate) attention_norm: Norm,
    pub(crate) attention: Attention,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
}

impl Block for TwoNormParallelBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.normed(ctx.backend, &self.attention_norm)?;
        let y = stream.normed(ctx.backend, &self.feed_forward_norm)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &y)?)
    }
}
