use rustllm_ops::{Backend, Error, Indices, KvCacheDType, KvCacheSpec, Predictions, Result, Tensor, Weight};

use super::{Block, Linear, Norm, ResidualStream};
use crate::config::encoder::Positions;
use crate::{ForwardContext, Model};

/// From tokens to the stream: the sum of what a token, its place and its segment stand for, normed.
#[derive(Debug)]
pub(crate) struct EncoderEmbedding {
    /// A row per token.
    pub(crate) tokens: Weight,
    /// A row per position, where positions are learned, and how they are counted.
    pub(crate) positions: Option<(Weight, Positions)>,
    /// A row per segment, where segments are told apart.
    pub(crate) token_types: Option<Weight>,
    /// Of the sum.
    pub(crate) norm: Norm,
    /// To the layers' width, where that is another.
    pub(crate) projection: Option<Linear>,
}

impl EncoderEmbedding {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut x = ctx.backend.embedding(&ctx.batch.token_ids, &self.tokens)?;
        if let Some(table) = &self.token_types {
            let types = match &ctx.batch.token_type_ids {
                Some(types) => ctx.backend.embedding(types, table)?,
                None => ctx.backend.embedding(&ctx.backend.indices(vec![0; x.rows()])?, table)?,
            };
            ctx.backend.add_assign(&mut x, &types)?;
        }
        if let Some((table, positions)) = &self.positions {
            let y = match positions {
                Positions::Absolute => ctx.backend.embedding(&ctx.batch.attention.positions, table)?,
                Positions::AfterPadding(padding) => {
                    ctx.backend.embedding(&positions_after_padding(ctx, *padding)?, table)?
                }
            };
            ctx.backend.add_assign(&mut x, &y)?;
        }
        let x = self.norm.forward(ctx.backend, &x)?;
        self.projection.as_ref().map_or(Ok(x.clone()), |projection| projection.forward(ctx.backend, &x))
    }
}

fn positions_after_padding(ctx: &ForwardContext<'_>, padding: u32) -> Result<Indices> {
    let (tokens, starts) = (ctx.batch.token_ids.as_slice(), ctx.batch.attention.query_start_loc.as_slice());
    let sequences = starts.windows(2).map(|bounds| &tokens[bounds[0] as usize..bounds[1] as usize]);
    let positions = sequences.flat_map(|tokens| {
        tokens.iter().scan(padding, move |last, token| {
            *last += u32::from(*token != padding);
            Some(if *token == padding { padding } else { *last })
        })
    });
    ctx.backend.indices(positions.collect())
}

/// A model that reads a prompt from both sides: embedding, blocks, and a norm where the last block has none.
#[derive(Debug)]
pub(crate) struct Encoder {
    pub(crate) embedding: EncoderEmbedding,
    pub(crate) blocks: Vec<Box<dyn Block>>,
    pub(crate) norm: Option<Norm>,
}

impl Model for Encoder {
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor> {
        let mut stream = ResidualStream::new(self.embedding.forward(ctx)?, 1.0);
        for block in &self.blocks {
            block.forward(ctx, &mut stream)?;
        }
        match &self.norm {
            Some(norm) => stream.normed(ctx.backend, norm),
            None => stream.sum(ctx.backend),
        }
    }

    fn predict(&self, _backend: &dyn Backend, _hidden: &Tensor, _num_logits: usize) -> Result<Predictions> {
        Err(Error::Shape { op: "lm_head", detail: "an encoder predicts no next token".into() })
    }

    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec {
        KvCacheSpec { groups: Vec::new(), num_kv_heads: 1, head_dim: 1, block_size, num_blocks, dtype }
    }

    fn vocab_size(&self) -> usize {
        self.embedding.tokens.out_features
    }

    fn num_layers(&self) -> usize {
        self.blocks.len()
    }

    fn num_token_types(&self) -> usize {
        self.embedding.token_types.as_ref().map_or(1, |table| table.out_features)
    }

    fn is_bidirectional(&self) -> bool {
        true
    }
}
