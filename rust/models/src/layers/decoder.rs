use rustllm_ops::{Backend, KvCacheDType, KvCacheGroup, KvCacheSpec, Result, Tensor, Weight};

use super::{Block, Linear, Norm, PerLayerEmbedding, ResidualStream};
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

/// From the stream's last norm to logits.
#[derive(Debug)]
pub(crate) struct LmHead {
    /// To the embedding's width, where that is another than the stream's.
    pub(crate) project_out: Option<Linear>,
    /// To the vocabulary.
    pub(crate) projection: Linear,
    /// Factor on the logits.
    pub(crate) multiplier: f32,
    /// What logits are kept below.
    pub(crate) soft_cap: Option<f32>,
}

impl LmHead {
    fn forward(&self, backend: &dyn Backend, hidden: &Tensor) -> Result<Tensor> {
        let narrow = self.project_out.as_ref().map(|project_out| project_out.forward(backend, hidden)).transpose()?;
        let mut logits = self.projection.forward(backend, narrow.as_ref().unwrap_or(hidden))?;
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
    norm: Option<Norm>,
    lm_head: LmHead,
    residual_multiplier: f32,
    kv_cache_groups: Vec<KvCacheGroup>,
    per_layer_embedding: Option<PerLayerEmbedding>,
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
        let (multiplier, soft_cap) = (config.multipliers.logits, config.logit_soft_cap);
        Self {
            embedding,
            blocks,
            norm: norm.into(),
            lm_head: LmHead { project_out: None, projection: lm_head, multiplier, soft_cap },
            residual_multiplier: config.multipliers.residual,
            kv_cache_groups: KvCacheGroup::cut(&config.kv_cache_kinds()),
            per_layer_embedding: None,
        }
    }

    /// The decoder whose hidden states `project_out` narrows before the output projection.
    pub(crate) fn narrowed(mut self, project_out: Option<Linear>) -> Self {
        self.lm_head.project_out = project_out;
        self
    }

    /// The decoder whose layers have inputs of their own.
    pub(crate) fn with_layer_inputs(mut self, embedding: Option<PerLayerEmbedding>) -> Self {
        self.per_layer_embedding = embedding;
        self
    }
}

impl Model for Decoder {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let x = self.embedding.forward(ctx)?;
        let layer_inputs = self.per_layer_embedding.as_ref().map(|embedding| embedding.forward(ctx, &x)).transpose()?;
        let mut stream = ResidualStream::new(x, self.residual_multiplier).with_layer_inputs(layer_inputs);
        for block in &self.blocks {
            block.forward(ctx, &mut stream)?;
        }
        match &self.norm {
            Some(norm) => stream.normed(ctx.backend, norm),
            None => stream.sum(ctx.backend),
        }
    }

    fn logits(&self, backend: &dyn Backend, hidden: &Tensor) -> Result<Tensor> {
        self.lm_head.forward(backend, hidden)
    }

    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec {
        KvCacheSpec { groups: self.kv_cache_groups.clone(), block_size, num_blocks, dtype }
    }

    fn vocab_size(&self) -> usize {
        self.embedding.tokens.out_features
    }

    fn num_layers(&self) -> usize {
        self.blocks.len()
    }
}
