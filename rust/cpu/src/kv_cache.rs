//! The paged cache's memory: keys transposed, so that attention needs no sums across lanes.
//!
//! ```text
//!   keys     [num_blocks][kv_heads][head_dim][block_size]       values  [num_blocks][kv_heads][block_size][head_dim']
//!
//!            position  0  1  2 ... 15 | 16 ...                           d   0  1  2 ... head_dim' (a multiple of 16)
//!     d = 0          [ one vector     | next tile ]              position 0 [ vector | vector | ... ]
//!     d = 1          [                |           ]              position 1 [                       ]
//!     ...                                                        ...
//!
//!   scores[0..16] += q[d] * keys[d][0..16]                       out[..] += p[position] * values[position][..]
//! ```

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::{DType, Error, KvCache, KvCacheLayer, KvCacheSpec, Result, Storage};

use crate::memory::{AlignedBytes, checked_size};
use crate::simd::LANES;

/// One layer's keys and values.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    keys: AlignedBytes,
    values: AlignedBytes,
    spec: KvCacheSpec,
    backend: u64,
}

impl Storage for KvBlocks {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Width of a value row: `head_dim` filled up to whole vectors.
pub(crate) fn padded_head_dim(head_dim: usize) -> usize {
    head_dim.next_multiple_of(LANES)
}

impl KvBlocks {
    fn new(spec: &KvCacheSpec, backend: u64) -> Result<Self> {
        let KvCacheSpec { num_kv_heads, head_dim, block_size, num_blocks, dtype, .. } = *spec;
        let bytes = |width: usize| {
            let size = checked_size(&[num_blocks, num_kv_heads, block_size, width, dtype.size()], "the KV cache")?;
            AlignedBytes::zeroed(size, "the KV cache")
        };
        Ok(Self { keys: bytes(head_dim)?, values: bytes(padded_head_dim(head_dim))?, spec: *spec, backend })
    }

    /// The cache's size and dtype.
    pub(crate) fn spec(&self) -> &KvCacheSpec {
        &self.spec
    }

    /// The backend whose ops may touch it.
    pub(crate) fn backend(&self) -> u64 {
        self.backend
    }

    /// Keys of a head of block 0.
    pub(crate) fn keys(&self, head: usize) -> *mut u8 {
        let elements = head * self.spec.head_dim * self.spec.block_size;
        self.keys.as_ptr().wrapping_add(elements * self.spec.dtype.size())
    }

    /// Values of a head of block 0.
    pub(crate) fn values(&self, head: usize) -> *mut u8 {
        let elements = head * padded_head_dim(self.spec.head_dim) * self.spec.block_size;
        self.values.as_ptr().wrapping_add(elements * self.spec.dtype.size())
    }

    /// Elements from a head's keys in one block to those in the next.
    pub(crate) fn key_block_stride(&self) -> usize {
        self.spec.num_kv_heads * self.spec.head_dim * self.spec.block_size
    }

    /// Elements from a head's values in one block to those in the next.
    pub(crate) fn value_block_stride(&self) -> usize {
        self.spec.num_kv_heads * padded_head_dim(self.spec.head_dim) * self.spec.block_size
    }

    /// Writes one head's key and value of one token.
    ///
    /// # Safety
    /// `head` and `slot` are inside the cache, and nobody else touches that head of that slot.
    pub(crate) unsafe fn write(&self, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let (block, offset) = (slot / self.spec.block_size, slot % self.spec.block_size);
        let key_at = block * self.key_block_stride() + offset;
        let value_at = block * self.value_block_stride() + offset * padded_head_dim(self.spec.head_dim);
        let (keys, values) = (self.keys(head), self.values(head));
        // SAFETY: head and slot are inside, so are the elements; their memory is aligned for their type.
        unsafe {
            match self.spec.dtype {
                DType::F32 => {
                    scatter(keys.cast::<f32>().add(key_at), self.spec.block_size, key, |v| v);
                    scatter(values.cast::<f32>().add(value_at), 1, value, |v| v);
                }
                DType::F16 => {
                    let bits = |v| half::f16::from_f32(v).to_bits();
                    scatter(keys.cast::<u16>().add(key_at), self.spec.block_size, key, bits);
                    scatter(values.cast::<u16>().add(value_at), 1, value, bits);
                }
                DType::BF16 => {
                    let bits = |v| half::bf16::from_f32(v).to_bits();
                    scatter(keys.cast::<u16>().add(key_at), self.spec.block_size, key, bits);
                    scatter(values.cast::<u16>().add(value_at), 1, value, bits);
                }
            }
        }
    }
}

/// # Safety
/// `to` is valid for the values' number of elements, `stride` apart.
unsafe fn scatter<T>(to: *mut T, stride: usize, values: &[f32], convert: impl Fn(f32) -> T) {
    for (i, value) in values.iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { to.add(i * stride).write(convert(*value)) };
    }
}

/// A cache for `spec`.
pub(crate) fn alloc(spec: &KvCacheSpec, backend: u64) -> Result<KvCache> {
    if spec.block_size == 0 || !spec.block_size.is_multiple_of(LANES) {
        return Err(Error::Shape {
            op: "alloc_kv_cache",
            detail: format!("block_size must be a multiple of {LANES} on the CPU, got {}", spec.block_size),
        });
    }
    let layers = (0..spec.num_layers)
        .map(|_| Ok(KvCacheLayer { spec: *spec, storage: Arc::new(KvBlocks::new(spec, backend)?) }))
        .collect::<Result<_>>()?;
    Ok(KvCache::new(*spec, layers))
}
