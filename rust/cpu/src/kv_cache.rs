//! The paged cache's memory: keys transposed, so that attention needs no sums across lanes.
//!
//! ```text
//!   cache    [num_blocks][layers of the group][kv_heads][keys, then values]
//!
//!   keys     [head_dim][block_size]                             values  [block_size][head_dim']
//!
//!            position  0  1  2 ... 15 | 16 ...                           d   0  1  2 ... head_dim' (a multiple of 16)
//!     d = 0          [ one vector     | next tile ]              position 0 [ vector | vector | ... ]
//!     d = 1          [                |           ]              position 1 [                       ]
//!     ...                                                        ...
//!     int8: scales   [ one a position |           ]              scales     [ one a position        ]
//!
//!   scores[0..16] += q[d] * keys[d][0..16]                       out[..] += p[position] * values[position][..]
//! ```
//!
//! All that a token leaves behind, in all layers of a group, is in one place: little memory is touched until much of the cache is in use, even
//! where the system gives it in huge pages; and what a head reads of a block is one stretch.
//!
//! With int8, a head's float32 scales follow its elements in every block: a score is multiplied by its key's scale, a weight by
//! its value's, and elements are used as the integers they are.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is its `Safety` section's")]

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::quantize::TINY;
use rustllm_ops::{Error, KvCache, KvCacheDType, KvCacheKind, KvCacheSpec, Result, Storage, checked_size};

use crate::kernels::Kernels;
use crate::memory::AlignedBytes;
use crate::simd::{LANES, Simd};

/// A place in every block: keys and values of one layer.
#[derive(Debug)]
pub(crate) struct KvBlocks {
    /// Of all places.
    memory: Arc<AlignedBytes>,
    /// Which of its group the layer is.
    place: usize,
    kind: KvCacheKind,
    block_bytes: usize,
    spec: Arc<KvCacheSpec>,
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

/// Bytes that a head's keys or values of a position take, scale included: `width` elements.
fn position_bytes(width: usize, dtype: KvCacheDType) -> usize {
    width.saturating_mul(dtype.size()).saturating_add(dtype.scale_size())
}

/// Bytes that a head's keys and values of a block take.
fn head_bytes(kind: &KvCacheKind, spec: &KvCacheSpec) -> usize {
    let widths = [kind.head_dim, padded_head_dim(kind.head_dim)];
    let position = widths.iter().map(|width| position_bytes(*width, spec.dtype)).fold(0, usize::saturating_add);
    position.saturating_mul(spec.block_size)
}

/// Bytes of a block: what the layers of a group take, of the group where that is most.
pub(crate) fn block_bytes(spec: &KvCacheSpec) -> usize {
    spec.block_size_of(|kind| head_bytes(kind, spec).saturating_mul(kind.num_kv_heads))
}

impl KvBlocks {
    /// The cache's size and dtype.
    pub(crate) fn spec(&self) -> &Arc<KvCacheSpec> {
        &self.spec
    }

    /// The backend whose ops may touch it.
    pub(crate) fn backend(&self) -> u64 {
        self.backend
    }

    fn key_bytes(&self) -> usize {
        self.spec.block_size * position_bytes(self.kind.head_dim, self.spec.dtype)
    }

    /// Keys of a head of block 0.
    pub(crate) fn keys(&self, head: usize) -> *mut u8 {
        let before = self.place * self.kind.num_kv_heads + head;
        self.memory.as_ptr().wrapping_add(before * head_bytes(&self.kind, &self.spec))
    }

    /// Values of a head of block 0.
    pub(crate) fn values(&self, head: usize) -> *mut u8 {
        self.keys(head).wrapping_add(self.key_bytes())
    }

    /// Bytes from block to block.
    pub(crate) fn block_bytes(&self) -> usize {
        self.block_bytes
    }

    /// Writes one head's key and value of one token.
    ///
    /// # Safety
    /// `head` and `slot` are inside the cache, nobody else touches that head of that slot, and the machine runs the kernels.
    pub(crate) unsafe fn write(&self, kernels: &Kernels, head: usize, slot: usize, key: &[f32], value: &[f32]) {
        let (block_size, width) = (self.spec.block_size, padded_head_dim(self.kind.head_dim));
        let (block, offset) = (slot / block_size, slot % block_size);
        let keys = self.keys(head).add(block * self.block_bytes());
        let values = self.values(head).add(block * self.block_bytes());
        let (key_at, value_at) = (offset, offset * width);
        match self.spec.dtype {
            KvCacheDType::F32 => {
                scatter(keys.cast::<f32>().add(key_at), block_size, key, |v| v);
                scatter(values.cast::<f32>().add(value_at), 1, value, |v| v);
            }
            KvCacheDType::F16 => {
                let bits = |v| half::f16::from_f32(v).to_bits();
                scatter(keys.cast::<u16>().add(key_at), block_size, key, bits);
                scatter(values.cast::<u16>().add(value_at), 1, value, bits);
            }
            KvCacheDType::BF16 => {
                let bits = |v| half::bf16::from_f32(v).to_bits();
                scatter(keys.cast::<u16>().add(key_at), block_size, key, bits);
                scatter(values.cast::<u16>().add(value_at), 1, value, bits);
            }
            KvCacheDType::Int8 => {
                let key_scales = keys.add(key.len() * block_size).cast::<f32>();
                let value_scales = values.add(width * block_size).cast::<f32>();
                let (keys, values) = (keys.cast::<i8>().add(key_at), values.cast::<i8>().add(value_at));
                (kernels.quantize_head)(key.as_ptr(), key.len(), keys, block_size, key_scales.add(offset));
                (kernels.quantize_head)(value.as_ptr(), value.len(), values, 1, value_scales.add(offset));
            }
        }
    }
}

/// # Safety
/// `to` is valid for the values' number of elements, `stride` apart, and aligned.
unsafe fn scatter<T>(to: *mut T, stride: usize, values: &[f32], convert: impl Fn(f32) -> T) {
    for (i, value) in values.iter().enumerate() {
        to.add(i * stride).write(convert(*value));
    }
}

/// [`int8_row`](rustllm_ops::quantize::int8_row) of `n` elements, to bytes `stride` apart.
///
/// # Safety
/// Pointers are valid for that.
#[inline(always)]
pub(crate) unsafe fn quantize_head<S: Simd>(x: *const f32, n: usize, to: *mut i8, stride: usize, scale: *mut f32) {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the lowest bits; of a NaN those are zero.
    const SHIFT: f32 = 12_582_912.0;
    let zero = S::splat(0.0);
    let (mut largest, mut defect) = (zero, zero);
    for i in (0..n).step_by(LANES) {
        let v = S::load_partial(x.add(i), n - i);
        largest = S::max(S::max(v, S::sub(zero, v)), largest);
        defect = S::mul_add(v, zero, defect);
    }
    let largest = S::reduce_max(largest);
    *scale = largest / 127.0 + S::reduce_add(defect);
    let inverse = S::splat(if largest < TINY { 0.0 } else { 127.0 / largest });
    for i in (0..n).step_by(LANES) {
        let mut lanes = [0.0f32; LANES];
        let v = S::mul(S::load_partial(x.add(i), n - i), inverse);
        S::store(lanes.as_mut_ptr(), S::add(v, S::splat(SHIFT)));
        for (lane, shifted) in lanes.iter().enumerate().take(n - i) {
            *to.add((i + lane) * stride) = shifted.to_bits() as i8;
        }
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
    let size = checked_size(&[block_bytes(spec), spec.num_blocks], "the KV cache")?;
    let memory = Arc::new(AlignedBytes::huge(size, "the KV cache")?);
    let (block_bytes, shared) = (block_bytes(spec), Arc::new(spec.clone()));
    let place = |kind: &KvCacheKind, place| -> Arc<dyn Storage> {
        let (memory, spec) = (Arc::clone(&memory), Arc::clone(&shared));
        Arc::new(KvBlocks { memory, place, kind: *kind, block_bytes, spec, backend })
    };
    Ok(KvCache::new(Arc::clone(&shared), place))
}

#[cfg(test)]
mod tests {
    use rustllm_ops::KvCacheGroup;
    use rustllm_ops::quantize::int8_row;

    use super::*;
    use crate::{Isa, available_isas};

    #[test]
    fn heads_and_places_fill_the_bytes_it_counts() {
        for dtype in KvCacheDType::ALL {
            for head_dim in [8, 40, 64, 512] {
                let windows = [Some(8), None, Some(8), Some(8), None, Some(8), Some(8), None, Some(8)];
                let kinds = windows.map(|sliding_window| KvCacheKind { sliding_window, num_kv_heads: 2, head_dim });
                let groups = KvCacheGroup::cut(&kinds);
                let spec = KvCacheSpec { groups, block_size: 32, num_blocks: 5, dtype };
                let cache = alloc(&spec, 0).unwrap();
                let layers: Vec<&KvBlocks> =
                    [1, 4, 7].map(|layer| cache.layer(layer).storage.as_any().downcast_ref().unwrap()).to_vec();
                let other: &KvBlocks = cache.layer(0).storage.as_any().downcast_ref().unwrap();
                assert_eq!((other.keys(0), cache.layer(0).group), (layers[0].keys(0), 1), "a place is each group's");
                assert_eq!(layers[0].memory.len(), 5 * block_bytes(&spec));
                let starts =
                    layers.iter().flat_map(|layer| (0..2).flat_map(|head| [layer.keys(head), layer.values(head)]));
                let mut next = layers[0].memory.as_ptr();
                for (i, start) in starts.enumerate() {
                    assert_eq!(start, next, "{dtype}, heads of {head_dim}");
                    let keys = layers[0].key_bytes();
                    let values = head_bytes(&layers[0].kind, &spec) - keys;
                    next = next.wrapping_add(if i % 2 == 0 { keys } else { values });
                }
                assert_eq!(next as usize - layers[0].memory.as_ptr() as usize, block_bytes(&spec), "{dtype}");
            }
        }
    }

    #[test]
    fn a_block_holds_the_group_that_takes_most() {
        let kind = |sliding_window, num_kv_heads, head_dim| KvCacheKind { sliding_window, num_kv_heads, head_dim };
        let kinds = [kind(None, 1, 512), kind(Some(8), 2, 128), kind(Some(8), 2, 128), kind(None, 1, 512)];
        let groups = KvCacheGroup::cut(&kinds);
        let spec = KvCacheSpec { groups, block_size: 16, num_blocks: 3, dtype: KvCacheDType::BF16 };
        // One of the full layers, or both windowed ones, which take as much together.
        assert_eq!((spec.groups.len(), block_bytes(&spec)), (3, 2 * 16 * 512 * 2));
        let cache = alloc(&spec, 0).unwrap();
        let place = |layer| cache.layer(layer).storage.as_any().downcast_ref::<KvBlocks>().unwrap();
        let start = place(0).memory.as_ptr() as usize;
        assert_eq!([0, 3, 1, 2].map(|layer| place(layer).keys(0) as usize - start), [0, 0, 0, 16384]);
        assert_eq!(place(1).block_bytes(), place(0).block_bytes());
    }

    #[test]
    fn quantizes_as_the_definition_does() {
        let mut heads: Vec<Vec<f32>> = [1, 15, 16, 40, 64]
            .iter()
            .map(|n| (0..*n).map(|i| ((i * 7919 + 13) % 1000) as f32 * 0.37 - 170.0).collect())
            .collect();
        heads.push(vec![0.0; 20]);
        heads.push(vec![-254.0, 1.0, 3.0, -3.0, 253.0]);
        for isa in available_isas() {
            let kernels = Kernels::of(isa).unwrap();
            for head in &heads {
                let (mut got, mut scale) = (vec![9i8; 3 * head.len()], 0.0);
                // SAFETY: as many bytes, three apart, and an available set.
                unsafe { (kernels.quantize_head)(head.as_ptr(), head.len(), got.as_mut_ptr(), 3, &raw mut scale) };
                let want = int8_row(head);
                assert_eq!(scale, want.scale, "{isa}");
                let (elements, between): (Vec<_>, Vec<_>) =
                    got.chunks(3).map(|three| (three[0], [three[1], three[2]])).unzip();
                assert_eq!(elements, want.codes, "{isa}, {head:?}");
                assert!(between.iter().all(|bytes| *bytes == [9, 9]));
            }
        }
    }

    #[test]
    fn a_head_with_a_defect_has_no_scale() {
        let kernels = Kernels::of(Isa::Scalar).unwrap();
        for defect in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut head = [0.5f32; 20];
            head[17] = defect;
            let (mut to, mut scale) = ([0i8; 20], 0.0);
            // SAFETY: twenty elements; plain Rust runs anywhere.
            unsafe { (kernels.quantize_head)(head.as_ptr(), 20, to.as_mut_ptr(), 1, &raw mut scale) };
            assert!(scale.is_nan());
        }
    }
}
