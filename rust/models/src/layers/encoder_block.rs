use rustllm_ops::{Activation, EncoderAttentionParams, Result, RopeTable, Tensor};

use super::attention::rotate;
use super::{Block, FeedForward, Linear, Norm, ResidualStream};
use crate::ForwardContext;

/// Self-attention among the rows of each sequence, without a cache.
#[derive(Debug)]
pub(crate) struct EncoderAttention {
    /// Queries, keys and values of all heads side by side.
    pub(crate) qkv: Linear,
    /// From all heads back to the stream's width.
    pub(crate) output: Linear,
    /// Rotary positions of queries and keys.
    pub(crate) rope: Option<RopeTable>,
    /// Heads, scale, window and bias.
    pub(crate) params: EncoderAttentionParams,
}

impl EncoderAttention {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let EncoderAttentionParams { num_heads, num_kv_heads, head_dim, .. } = self.params;
        let (q_size, kv_size) = (num_heads * head_dim, num_kv_heads * head_dim);
        let (backend, metadata) = (ctx.backend, &ctx.batch.attention);
        let qkv = self.qkv.forward(backend, x)?;
        let v = qkv.columns(q_size + kv_size, kv_size)?;
        // Side by side, heads of both turn at once.
        let mut qk = qkv.columns(0, q_size + kv_size)?;
        rotate(ctx, &mut qk, self.rope.as_ref(), head_dim)?;
        let (q, k) = (qk.columns(0, q_size)?, qk.columns(q_size, kv_size)?);
        let attended = backend.encoder_attention(&q, &k, &v, &metadata.query_start_loc, &self.params)?;
        self.output.forward(backend, &attended)
    }
}

/// Attention, then feed-forward; each is added to the stream, and the sum normed in its place.
#[derive(Debug)]
pub(crate) struct EncoderPostNormBlock {
    pub(crate) attention: EncoderAttention,
    pub(crate) attention_norm: Norm,
    pub(crate) feed_forward: FeedForward,
    pub(crate) feed_forward_norm: Norm,
}

impl Block for EncoderPostNormBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = stream.sum(ctx.backend)?;
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        let x = stream.renormed(ctx.backend, &self.attention_norm)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)?;
        stream.renormed(ctx.backend, &self.feed_forward_norm)?;
        Ok(())
    }
}

/// Attention, then feed-forward, each on a norm of the stream; the first on the stream itself where it is normed already.
#[derive(Debug)]
pub(crate) struct EncoderPreNormBlock {
    pub(crate) attention_norm: Option<Norm>,
    pub(crate) attention: EncoderAttention,
    pub(crate) feed_forward_norm: Norm,
    pub(crate) feed_forward: FeedForward,
}

impl Block for EncoderPreNormBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let x = match &self.attention_norm {
            Some(norm) => stream.normed(ctx.backend, norm)?,
            None => stream.sum(ctx.backend)?,
        };
        stream.add(ctx.backend, self.attention.forward(ctx, &x)?)?;
        let x = stream.normed(ctx.backend, &self.feed_forward_norm)?;
        stream.add(ctx.backend, self.feed_forward.forward(ctx.backend, &x)?)
    }
}

/// Another block beside a convolution over each sequence, both of the stream as it was; their sum is normed.
#[derive(Debug)]
pub(crate) struct ConvolvedBlock {
    pub(crate) block: Box<dyn Block>,
    /// Of a row and its neighbours side by side.
    pub(crate) convolution: Linear,
    /// Neighbours to each side.
    pub(crate) reach: usize,
    pub(crate) activation: Activation,
    pub(crate) norm: Norm,
}

impl Block for ConvolvedBlock {
    fn forward(&self, ctx: &ForwardContext<'_>, stream: &mut ResidualStream) -> Result<()> {
        let (backend, Linear { weight, bias }) = (ctx.backend, &self.convolution);
        let x = backend.unfold(&stream.sum(backend)?, &ctx.batch.attention.query_start_loc, self.reach)?;
        let convolved = backend.activated_linear(&x, weight, bias.as_ref(), self.activation)?;
        self.block.forward(ctx, stream)?;
        stream.add(backend, convolved)?;
        stream.renormed(backend, &self.norm)?;
        Ok(())
    }
}
