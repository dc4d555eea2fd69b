use std::fmt::Debug;

use rustllm_ops::{AttentionParams, QkRmsNorm, Result, RopeTable, Tensor};

use super::{Linear, Norm};
use crate::ForwardContext;

/// How tokens look at those before them.
pub(crate) trait SelfAttention: Debug + Send + Sync {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor>;
}

/// Causal self-attention over the paged cache.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values of all heads side by side; without values, they are the keys before their norm.
    pub(crate) qkv: Linear,
    /// From all heads back to the stream's width.
    pub(crate) output: Linear,
    /// What queries, keys and values are kept within, in magnitude.
    pub(crate) clip_qkv: Option<f32>,
    /// Norms of each query head and each key head.
    pub(crate) qk_norm: Option<(Norm, Norm)>,
    /// Norm of each value head.
    pub(crate) v_norm: Option<Norm>,
    /// Rotary positions of queries and keys.
    pub(crate) rope: Option<RopeTable>,
    /// Heads, scale and window.
    pub(crate) params: AttentionParams,
    /// Which layer of the cache is this one's.
    pub(crate) layer: usize,
}

impl SelfAttention for Attention {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let AttentionParams { num_heads, num_kv_heads, head_dim, .. } = self.params;
        let (q_size, kv_size) = (num_heads * head_dim, num_kv_heads * head_dim);
        let backend = ctx.backend;
        let mut qkv = self.qkv.forward(backend, x)?;
        if let Some(limit) = self.clip_qkv {
            backend.clamp(&mut qkv, limit)?;
        }
        let mut v = qkv.columns(qkv.cols() - kv_size, kv_size)?;
        if let Some(norm) = &self.v_norm {
            v = norm.forward(backend, &v)?;
        }
        let (mut q, mut k) = (qkv.columns(0, q_size)?, qkv.columns(q_size, kv_size)?);
        let norm_of_heads = self.norm_of_heads();
        if let (Some((q_norm, k_norm)), None) = (&self.qk_norm, &norm_of_heads) {
            (q, k) = (q_norm.forward(backend, &q)?, k_norm.forward(backend, &k)?);
        }
        let attended = attend(ctx, [q, k, v], norm_of_heads.as_ref(), self.rope.as_ref(), (&self.params, self.layer))?;
        self.output.forward(backend, &attended)
    }
}

impl Attention {
    /// The norms, where each is one root mean square for all heads: they go with what follows.
    fn norm_of_heads(&self) -> Option<QkRmsNorm<'_>> {
        match &self.qk_norm {
            Some((Norm::Rms { weight: q, eps }, Norm::Rms { weight: k, eps: k_eps }))
                if eps == k_eps && [q, k].iter().all(|weight| weight.cols() == self.params.head_dim) =>
            {
                Some(QkRmsNorm { q, k, eps: *eps })
            }
            _ => None,
        }
    }
}

/// Causal self-attention to what an earlier layer keeps in the paged cache.
#[derive(Debug)]
pub(crate) struct SharedKvAttention {
    /// Queries of all heads.
    pub(crate) q: Linear,
    /// Norm of each query head.
    pub(crate) q_norm: Norm,
    /// From all heads back to the stream's width.
    pub(crate) output: Linear,
    /// Rotary positions of queries.
    pub(crate) rope: Option<RopeTable>,
    /// Heads, scale and window.
    pub(crate) params: AttentionParams,
    /// The layer of the cache that keys and values are read from.
    pub(crate) source: usize,
}

impl SelfAttention for SharedKvAttention {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let (backend, metadata) = (ctx.backend, &ctx.batch.attention);
        let mut q = self.q_norm.forward(backend, &self.q.forward(backend, x)?)?;
        rotate(ctx, &mut q, self.rope.as_ref(), self.params.head_dim)?;
        let attended = backend.attention(&q, ctx.kv_cache.layer(self.source), metadata, &self.params)?;
        self.output.forward(backend, &attended)
    }
}

impl SelfAttention for Box<dyn SelfAttention> {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        self.as_ref().forward(ctx, x)
    }
}

/// Turns all heads to the positions of their rows, where positions are rotary.
pub(super) fn rotate(
    ctx: &ForwardContext<'_>,
    x: &mut Tensor,
    rope: Option<&RopeTable>,
    head_dim: usize,
) -> Result<()> {
    rope.map_or(Ok(()), |rope| ctx.backend.rotary(x, rope, &ctx.batch.attention.positions, head_dim))
}

/// Norms and turns heads of queries and keys, caches keys and values in a layer, and attends.
pub(super) fn attend(
    ctx: &ForwardContext<'_>,
    qkv: [Tensor; 3],
    norm: Option<&QkRmsNorm<'_>>,
    rope: Option<&RopeTable>,
    (params, layer): (&AttentionParams, usize),
) -> Result<Tensor> {
    let (cache, metadata) = (ctx.kv_cache.layer(layer), &ctx.batch.attention);
    let q = ctx.backend.rotary_write_kv(qkv, norm, rope, cache, metadata)?;
    ctx.backend.attention(&q, cache, metadata, params)
}
