use rustllm_ops::{Backend, Error, KvCacheDType, KvCacheSpec, Result, Tensor, Weight};

use super::{Block, Linear, Norm, ResidualStream};
use crate::{ForwardContext, Model};

/// From tokens to the stream.
#[derive(Debug)]
pub(crate) struct Embedding {
    /// A row per token.
    pub(crate) tokens: Weight,
    /// A row per position, where positions are learned.
    pub(crate) positions: Option<Weight>,
}

impl Embedding {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut x = ctx.backend.embedding(&ctx.batch.token_ids, &self.tokens)?;
        if let Some(positions) = &self.positions {
            let y = ctx.backend.embedding(&ctx.batch.attention.positions, positions)?;
            ctx.backend.add_assign(&mut x, &y)?;
        }
        Ok(x)
    }
}

/// A causal language model: embedding, blocks, norm, output projection.
#[derive(Debug)]
pub(crate) struct Decoder {
    pub(crate) embedding: Embedding,
    pub(crate) blocks: Vec<Box<dyn Block>>,
    pub(crate) norm: Norm,
    /// None where the model was not loaded to generate.
    pub(crate) lm_head: Option<Linear>,
    pub(crate) num_kv_heads: usize,
    pub(crate) head_dim: usize,
}

impl Model for Decoder {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut stream = ResidualStream::new(self.embedding.forward(ctx)?);
        for block in &self.blocks {
            block.forward(ctx, &mut stream)?;
        }
        stream.normed(ctx.backend, &self.norm)
    }

    fn logits(&self, backend: &dyn Backend, hidden: &Tensor) -> Result<Tensor> {
        let missing =
            || Error::Shape { op: "logits", detail: "the model was loaded without its output projection".into() };
        self.lm_head.as_ref().ok_or_else(missing)?.forward(backend, hidden)
    }

    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec {
        let (num_layers, num_kv_heads, head_dim) = (self.blocks.len(), self.num_kv_heads, self.head_dim);
        KvCacheSpec { num_layers, num_kv_heads, head_dim, block_size, num_blocks, dtype }
    }

    fn vocab_size(&self) -> usize {
        self.embedding.tokens.out_features
    }

    fn num_layers(&self) -> usize {
        self.blocks.len()
    }
}
