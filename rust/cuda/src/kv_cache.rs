//! The paged cache in the device's memory: `cuda/kv_cache.cu` has its layout.

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::{Error, KvCache, KvCacheDType, KvCacheLayer, KvCacheSpec, Result, Storage};

use crate::NAME;
use crate::device::Device;
use crate::memory::{DeviceMemory, checked_size};
use crate::view::Address;

/// Blocks hold a multiple of this many tokens, so that vectors of every dtype are aligned.
const BLOCK_GRANULE: usize = 16;

/// One layer's keys and values as kernels see them: `KvBlocks` of `cuda/kv_cache.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct KvBlocks {
    pub keys: Address,
    pub values: Address,
    pub key_scales: Address,
    pub value_scales: Address,
    pub num_kv_heads: i32,
    pub head_dim: i32,
    pub block_size: i32,
    pub reserved: i32,
}

/// A place in every block: memory for the keys and values of one layer.
#[derive(Debug)]
pub(crate) struct Place {
    memory: DeviceMemory,
    spec: Arc<KvCacheSpec>,
    backend: u64,
}

impl Storage for Place {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Elements that the keys of a layer take in a block, and scales.
fn per_block(spec: &KvCacheSpec) -> (usize, usize) {
    let scales = if spec.dtype.scale_size() > 0 { spec.num_kv_heads * spec.block_size } else { 0 };
    (spec.num_kv_heads * spec.block_size * spec.head_dim, scales)
}

fn place_bytes(spec: &KvCacheSpec) -> usize {
    let (elements, scales) = per_block(spec);
    2 * (elements * spec.dtype.size() + scales * size_of::<f32>())
}

/// Bytes of a block over all layers.
pub(crate) fn block_bytes(spec: &KvCacheSpec) -> usize {
    spec.layers_per_block() * place_bytes(spec)
}

/// A cache with unspecified contents.
pub(crate) fn alloc(device: &Device, backend: u64, spec: &KvCacheSpec) -> Result<KvCache> {
    if spec.block_size == 0 || !spec.block_size.is_multiple_of(BLOCK_GRANULE) {
        let detail = format!("block_size must be a multiple of {BLOCK_GRANULE} on CUDA, got {}", spec.block_size);
        return Err(Error::Shape { op: "alloc_kv_cache", detail });
    }
    // Checked as a whole, so that sizes below cannot overflow.
    checked_size(&[spec.num_blocks, block_bytes(spec).max(1)], "the key/value cache")?;
    let spec = Arc::new(spec.clone());
    let places = (0..spec.layers_per_block()).map(|_| {
        let memory = device.alloc(&[spec.num_blocks, place_bytes(&spec)], "the key/value cache")?;
        Ok(Arc::new(Place { memory, spec: Arc::clone(&spec), backend }) as Arc<dyn Storage>)
    });
    let places = places.collect::<Result<Vec<_>>>()?;
    Ok(KvCache::new(spec, &places))
}

/// A layer's keys and values, if backend `backend` made them.
pub(crate) fn blocks(layer: &KvCacheLayer, backend: u64) -> Result<KvBlocks> {
    let place = layer.storage.as_any().downcast_ref::<Place>();
    let place = place.filter(|place| place.backend == backend && Arc::ptr_eq(&place.spec, &layer.spec));
    let place = place.ok_or(Error::ForeignStorage { backend: NAME })?;
    let spec = &layer.spec;
    let (elements, scales) = per_block(spec);
    let keys = place.memory.address();
    let values = keys + (spec.num_blocks * elements * spec.dtype.size()) as u64;
    let key_scales = values + (spec.num_blocks * elements * spec.dtype.size()) as u64;
    let value_scales = key_scales + (spec.num_blocks * scales * size_of::<f32>()) as u64;
    let of_scales = |address| if scales > 0 { address } else { 0 };
    Ok(KvBlocks {
        keys,
        values,
        key_scales: of_scales(key_scales),
        value_scales: of_scales(value_scales),
        num_kv_heads: spec.num_kv_heads as i32,
        head_dim: spec.head_dim as i32,
        block_size: spec.block_size as i32,
        reserved: 0,
    })
}

/// The ending of kernels' names for caches of a dtype.
pub(crate) fn pick(dtype: KvCacheDType, [f32, f16, bf16, int8]: [&'static str; 4]) -> &'static str {
    match dtype {
        KvCacheDType::F32 => f32,
        KvCacheDType::F16 => f16,
        KvCacheDType::BF16 => bf16,
        KvCacheDType::Int8 => int8,
    }
}
