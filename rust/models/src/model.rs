use std::fmt::Debug;

use rustllm_ops::{
    AttentionMetadata, Backend, Indices, KvCache, KvCacheDType, KvCacheSpec, Predictions, Result, Tensor,
};

/// The rows of one step: tokens of any number of sequences, prefill and decode mixed.
#[derive(Debug, Clone)]
pub struct ForwardBatch {
    /// Token of each row, `[num_tokens]`.
    pub token_ids: Indices,
    /// Segment of each row, `[num_tokens]`, for models that tell segments apart; all in the first if `None`.
    pub token_type_ids: Option<Indices>,
    /// Where each row stands in its sequence, and where the sequence's keys and values are.
    pub attention: AttentionMetadata,
}

/// What a forward pass computes with, besides the weights.
#[derive(Debug, Clone, Copy)]
pub struct ForwardContext<'a> {
    /// The device the model was loaded on.
    pub backend: &'a dyn Backend,
    /// The rows.
    pub batch: &'a ForwardBatch,
    /// Keys and values of earlier steps; this step's are added.
    pub kv_cache: &'a KvCache,
}

/// A loaded model.
pub trait Model: Debug + Send + Sync {
    /// Hidden states after the final norm, `[num_tokens, hidden_size]`, ready for [`predict`](Self::predict).
    ///
    /// # Errors
    /// An op's: a token past the vocabulary, a position past the tables, metadata that does not fit, or a device
    /// failure.
    fn forward(&self, ctx: &ForwardContext<'_>) -> Result<Tensor>;

    /// The next token of each row of `hidden`, `[rows, hidden_size]`: the scores of all tokens, of the first `num_logits` rows,
    /// and the likeliest one, of the others.
    ///
    /// # Errors
    /// A width other than the hidden size, a model without an output projection, or a device failure.
    fn predict(&self, backend: &dyn Backend, hidden: &Tensor, num_logits: usize) -> Result<Predictions>;

    /// The cache the model needs, for `num_blocks` blocks of `block_size` tokens.
    fn kv_cache_spec(&self, block_size: usize, num_blocks: usize, dtype: KvCacheDType) -> KvCacheSpec;

    /// Token ids are below this.
    fn vocab_size(&self) -> usize;

    /// Layers.
    fn num_layers(&self) -> usize;

    /// Segments that it tells apart.
    fn num_token_types(&self) -> usize {
        1
    }

    /// Whether a row depends on those after it too: a prompt is then computed in one step, and leaves nothing in a cache.
    fn is_bidirectional(&self) -> bool {
        false
    }
}
