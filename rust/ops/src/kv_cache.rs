use std::sync::Arc;

use crate::{DType, Storage};

/// Size and element type of a paged key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Attention layers, each with keys and values of its own.
    pub num_layers: usize,
    /// Key/value heads of a layer.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens a block holds.
    pub block_size: usize,
    /// Blocks in the pool, shared by all layers: block `b` is block `b` in each.
    pub num_blocks: usize,
    /// Element type of keys and values.
    pub dtype: DType,
}

impl KvCacheSpec {
    /// Bytes one block takes over all layers, keys and values.
    pub fn bytes_per_block(&self) -> usize {
        2 * self.num_layers * self.num_kv_heads * self.head_dim * self.block_size * self.dtype.size()
    }

    /// Bytes of the whole cache.
    pub fn total_bytes(&self) -> usize {
        self.bytes_per_block().saturating_mul(self.num_blocks)
    }
}

/// Keys and values of every layer, in blocks of [`KvCacheSpec::block_size`] tokens.
///
/// Token `i` of a sequence lives in slot `block_table[i / block_size] * block_size + i % block_size` of every layer.
#[derive(Debug)]
pub struct KvCache {
    spec: KvCacheSpec,
    layers: Vec<KvCacheLayer>,
}

impl KvCache {
    /// A cache of `spec.num_layers` layers. For backends.
    pub fn new(spec: KvCacheSpec, layers: Vec<KvCacheLayer>) -> Self {
        debug_assert_eq!(spec.num_layers, layers.len());
        Self { spec, layers }
    }

    /// What the cache was made for.
    pub fn spec(&self) -> &KvCacheSpec {
        &self.spec
    }

    /// Layer `index`'s keys and values.
    pub fn layer(&self, index: usize) -> &KvCacheLayer {
        &self.layers[index]
    }
}

/// One layer's keys and values, in a layout of the backend's own.
#[derive(Debug, Clone)]
pub struct KvCacheLayer {
    /// The cache's spec.
    pub spec: KvCacheSpec,
    /// The blocks.
    pub storage: Arc<dyn Storage>,
}
