use rustllm_ops::{AttentionParams, Result, RopeTable, Tensor};

use super::{Linear, Norm};
use crate::ForwardContext;

/// Causal self-attention over the paged cache.
#[derive(Debug)]
pub(crate) struct Attention {
    /// Queries, keys and values of all heads side by side.
    pub(crate) qkv: Linear,
    /// From all heads back to the stream's width.
    pub(crate) output: Linear,
    /// What queries, keys and values are kept within, in magnitude.
    pub(crate) clip_qkv: Option<f32>,
    /// Norms of each query head and each key head.
    pub(crate) qk_norm: Option<(Norm, Norm)>,
    /// Rotary positions of queries and keys.
    pub(crate) rope: Option<RopeTable>,
    /// Heads, scale and window.
    pub(crate) params: AttentionParams,
    /// Which layer of the cache is this one's.
    pub(crate) layer: usize,
}

impl Attention {
    pub(crate) fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let AttentionParams { num_heads, num_kv_heads, head_dim, .. } = self.params;
        let (q_size, kv_size) = (num_heads * head_dim, num_kv_heads * head_dim);
        let (backend, metadata) = (ctx.backend, &ctx.batch.attention);
        let mut qkv = self.qkv.forward(backend, x)?;
        if let Some(limit) = self.clip_qkv {
            backend.clamp(&mut qkv, limit)?;
        }
        let (mut q, mut k) = (qkv.columns(0, q_size)?, qkv.columns(q_size, kv_size)?);
        let v = qkv.columns(q_size + kv_size, kv_size)?;
        if let Some((q_norm, k_norm)) = &self.qk_norm {
            (q, k) = (q_norm.forward(backend, &q)?, k_norm.forward(backend, &k)?);
        }
        if let Some(rope) = &self.rope {
            backend.rotary(&mut q, rope, &metadata.positions, head_dim)?;
            backend.rotary(&mut k, rope, &metadata.positions, head_dim)?;
        }
        let cache = ctx.kv_cache.layer(self.layer);
        backend.write_kv(&k, &v, cache, metadata)?;
        let attended = backend.attention(&q, cache, metadata, &self.params)?;
        self.output.forward(backend, &attended)
    }
}
