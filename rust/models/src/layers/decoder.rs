use rustllm_ops::{Backend, KvCacheDType, KvCacheGroup, KvCacheSpec, Result, Tensor, Weight};

use super::{Block, Linear, Norm, ResidualStream};
use crate::{ForwardContext, Model, ModelConfig};

/// From tokens to the stream.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// A row per token.
    pub(crate) tokens: Weight,
    /// A row per position, where positions are learned.
    pub(crate) positions: Option<Weight>,
    /// Factor on the tokens' rows.
    pub(crate) multiplier: f32,
}

impl Embedding {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut x = ctx.backend.embedding(&ctx.batch.token_ids, &self.tokens)?;
        if self.multiplier != 1.0 {
            ctx.backend.scale(&mut x, self.multiplier)?;
        }
        if let Some(positions) = &self.positions {
            let y = ctx.backend.embedding(&ctx.batch.attention.positions, positions)?;
            ctx.backend.add_assign(&mut x, &y)?;
        }
        Ok(x)
    }
}

/// From the stream's last norm to logits.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// To the vocabulary.
    pub(crate) projection: Linear,
    /// Factor on the logits.
    pub(crate) multiplier: f32,
    /// What logits are kept below.
    pub(crate) soft_cap: Option<f32>,
}

impl LmHead {
    fn forward(&self, backend: &dyn Backend, hidden: &Tensor) -> Result<Tensor> {
        let mut logits = self.projection.forward(backend, hidden)?;
        if self.multiplier != 1.0 {
            backend.scale(&mut logits, self.multiplier)?;
        }
        if let Some(cap) = self.soft_cap {
            backend.soft_cap(&mut logits, cap)?;
        }
        Ok(logits)
    }
}

/// A causal language model: embedding, blocks, norm, output projection.
#[derive(Debug)]
pub(crate) struct Decoder {
    embedding: Embedding,
    blocks: Vec<Box<dyn Block>>,
    norm: Norm,
    lm_head: LmHead,
    residual_multiplier: f32,
    kv_cache_groups: Vec<KvCacheGroup>,
    num_kv_heads: usize,
    head_dim: usize,
}

impl Decoder {
    /// Puts the parts together. `lm_head` is the output projection.
    pub(crate) fn new(
        config: &ModelConfig,
        embedding: Embedding,
        blocks: Vec<Box<dyn Block>>,
        norm: Norm,
        lm_head: Linear,
    ) -> Self {
        let (multiplier, soft_cap) = (config.multipliers.logits, config.logit_soft_cap);
        Self {
            embedding,
            blocks,
            norm,
            lm_head: LmHead { projection: lm_head, multiplier, soft_cap },
            residual_multiplier: config.multipliers.residual,
            kv_cache_groups: KvCacheGroup::cut(&config.sliding_windows()),
            num_kv_heads: config.attention.num_kv_heads,
            head_dim: config.attention.head_dim,
        }
    }
}

impl Model for Decoder {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut stream = ResidualStream::new(self.embedding.forward(ctx)?, self.residual_multiplier);
        for block in &self.blocks {
            block.forward(ctx, &mut stream)?;
        }
        stream.normed(ctx.backend, &self.norm)
    }

    fn logits(&self, backend: &dyn Backend, hidden: &Tensor) -> Result<Tensor> {
        self.lm_head.forward(backend, hidden)
    }

    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec {
        let (groups, num_kv_heads, head_dim) = (self.kv_cache_groups.clone(), self.num_kv_heads, self.head_dim);
        KvCacheSpec { groups, num_kv_heads, head_dim, block_size, num_blocks, dtype }
    }

    fn vocab_size(&self) -> usize {
        self.lm_head.projection.weight.out_features
    }
}
