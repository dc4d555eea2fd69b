use rustllm_ops::{
    Backend, KvCacheDType, KvCacheGroup, KvCacheSpec, LmHeadParams, Predictions, Result, Tensor, Weight,
};

use super::{Block, Linear, Norm, ResidualStream};
use crate::{ForwardContext, Model, ModelConfig};

/// From tokens to the stream.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// A row per token.
    pub(crate) tokens: Weight,
    /// To the stream's width, where tokens have another.
    pub(crate) projection: Option<Linear>,
    /// A row per position, where positions are learned.
    pub(crate) positions: Option<Weight>,
    /// Factor on the tokens' rows.
    pub(crate) multiplier: f32,
    /// Of the sum.
    pub(crate) norm: Option<Norm>,
}

impl Embedding {
    /// A row of `tokens` for each token, and no more.
    pub(crate) fn new(tokens: Weight) -> Self {
        Self { tokens, projection: None, positions: None, multiplier: 1.0, norm: None }
    }

    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut x = ctx.backend.embedding(&ctx.batch.token_ids, &self.tokens)?;
        if self.multiplier != 1.0 {
            ctx.backend.scale(&mut x, self.multiplier)?;
        }
        if let Some(projection) = &self.projection {
            x = projection.forward(ctx.backend, &x)?;
        }
        if let Some(positions) = &self.positions {
            let y = ctx.backend.embedding(&ctx.batch.attention.positions, positions)?;
            ctx.backend.add_assign(&mut x, &y)?;
        }
        match &self.norm {
            Some(norm) => norm.forward(ctx.backend, &x),
            None => Ok(x),
        }
    }
}

/// A causal language model: embedding, blocks, norm, output projection.
#[derive(Debug)]
pub(crate) struct Decoder {
    embedding: Embedding,
    blocks: Vec<Box<dyn Block>>,
    norm: Option<Norm>,
    /// To the embedding's width, where that is another than the stream's.
    project_out: Option<Linear>,
    lm_head: LmHeadParams,
    residual_multiplier: f32,
    kv_cache_groups: Vec<KvCacheGroup>,
    num_kv_heads: usize,
    head_dim: usize,
}

impl Decoder {
    /// Puts the parts together. `norm` is `None` where every block ends with one; `lm_head` is the output projection.
    pub(crate) fn new(
        config: &ModelConfig,
        embedding: Embedding,
        blocks: Vec<Box<dyn Block>>,
        norm: impl Into<Option<Norm>>,
        lm_head: Linear,
    ) -> Self {
        let Linear { weight, bias } = lm_head;
        let (multiplier, soft_cap) = (config.multipliers.logits, config.logit_soft_cap);
        Self {
            embedding,
            blocks,
            norm: norm.into(),
            project_out: None,
            lm_head: LmHeadParams { weight, bias, multiplier, soft_cap },
            residual_multiplier: config.multipliers.residual,
            kv_cache_groups: KvCacheGroup::cut(&config.sliding_windows()),
            num_kv_heads: config.attention.num_kv_heads,
            head_dim: config.attention.head_dim,
        }
    }

    /// The decoder whose hidden states `project_out` narrows before the output projection.
    pub(crate) fn narrowed(mut self, project_out: Option<Linear>) -> Self {
        self.project_out = project_out;
        self
    }
}

impl Model for Decoder {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut stream = ResidualStream::new(self.embedding.forward(ctx)?, self.residual_multiplier);
        for block in &self.blocks {
            block.forward(ctx, &mut stream)?;
        }
        match &self.norm {
            Some(norm) => stream.normed(ctx.backend, norm),
            None => stream.sum(ctx.backend),
        }
    }

    fn predict(&self, backend: &dyn Backend, hidden: &Tensor, num_logits: usize) -> Result<Predictions> {
        let narrow = self.project_out.as_ref().map(|project_out| project_out.forward(backend, hidden)).transpose()?;
        backend.lm_head(narrow.as_ref().unwrap_or(hidden), &self.lm_head, num_logits)
    }

    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec {
        let (groups, num_kv_heads, head_dim) = (self.kv_cache_groups.clone(), self.num_kv_heads, self.head_dim);
        KvCacheSpec { groups, num_kv_heads, head_dim, block_size, num_blocks, dtype }
    }

    fn vocab_size(&self) -> usize {
        self.embedding.tokens.out_features
    }

    fn num_layers(&self) -> usize {
        self.blocks.len()
    }
}
