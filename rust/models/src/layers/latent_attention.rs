use rustllm_ops::{AttentionParams, Backend, Result, RopeTable, Tensor};

use super::attention::{SelfAttention, attend};
use super::{Linear, Norm};
use crate::ForwardContext;

/// Multi-head latent attention (arXiv:2405.04434), its keys and values expanded to ordinary heads and cached like those.
///
/// ```text
///   down(x) = [ q's latent | k and v's latent | the key part that rotates, one for all heads ]
///                  │ norm, up        │ norm, up
///                  ▼                 ▼
///     q, each head [ rotates | rest ]
///     k, each head [    0    | rest ]    the rotating part is put where the zeros are
///     v, each head [ value   |  0   ]    as wide as a key
/// ```
#[derive(Debug)]
pub(crate) struct LatentAttention {
    /// To the latents; to the queries themselves where these have none.
    pub(crate) down: Linear,
    /// From their latent to the queries of all heads.
    pub(crate) q_up: Option<(Norm, Linear)>,
    /// From their latent to keys and values of all heads, side by side.
    pub(crate) kv_up: (Norm, Linear),
    /// From all heads back to the stream's width.
    pub(crate) output: Linear,
    /// Rotary positions of the first part of queries and keys.
    pub(crate) rope: Option<RopeTable>,
    /// Heads and scale.
    pub(crate) params: AttentionParams,
    /// Which layer of the cache is this one's.
    pub(crate) layer: usize,
}

impl LatentAttention {
    fn project(&self, backend: &dyn Backend, x: &Tensor) -> Result<[Tensor; 3]> {
        let AttentionParams { num_heads, head_dim, .. } = self.params;
        let size = num_heads * head_dim;
        let down = self.down.forward(backend, x)?;
        let (kv_norm, kv_up) = &self.kv_up;
        let latent = kv_up.weight.in_features;
        let q_size = self.q_up.as_ref().map_or(size, |(_, up)| up.weight.in_features);
        let mut q = down.columns(0, q_size)?;
        if let Some((norm, up)) = &self.q_up {
            q = up.forward(backend, &norm.forward(backend, &q)?)?;
        }
        let kv = kv_up.forward(backend, &kv_norm.forward(backend, &down.columns(q_size, latent)?)?)?;
        let mut k = kv.columns(0, size)?;
        let rotating = down.columns(q_size + latent, down.cols() - q_size - latent)?;
        backend.fill_heads(&mut k, &rotating, head_dim)?;
        Ok([q, k, kv.columns(size, size)?])
    }
}

impl SelfAttention for LatentAttention {
    fn forward(&self, ctx: &ForwardContext<'_>, x: &Tensor) -> Result<Tensor> {
        let qkv = self.project(ctx.backend, x)?;
        let attended = attend(ctx, qkv, None, self.rope.as_ref(), (&self.params, self.layer))?;
        self.output.forward(ctx.backend, &attended)
    }
}
