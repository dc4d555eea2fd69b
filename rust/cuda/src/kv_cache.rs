//! The paged cache in the device's memory: `cuda/kv_cache.cuh` has its layout.

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::{
    AttentionMetadata, Error, KvCache, KvCacheDType, KvCacheKind, KvCacheLayer, KvCacheSpec, QkRmsNorm, Result,
    RopeTable, Storage, Tensor,
};

use crate::NAME;
use crate::backend::CudaBackend;
use crate::device::{Device, Grid};
use crate::kernels::{RotaryWriteKv, WriteKv};
use crate::memory::DeviceMemory;
use crate::view::{Address, indices, optional_vector};

/// Blocks hold a multiple of this many tokens, so that vectors of every dtype are aligned.
const BLOCK_GRANULE: usize = 16;

/// Blocks begin at multiples of this.
const ALIGNMENT: usize = 256;

/// One layer's keys and values as kernels see them: `KvBlocks` of `cuda/kv_cache.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct KvBlocks {
    pub keys: Address,
    pub values: Address,
    pub key_scales: Address,
    pub value_scales: Address,
    pub block_bytes: i64,
    pub num_kv_heads: i32,
    pub head_dim: i32,
    pub block_size: i32,
    pub reserved: i32,
}

/// A place in every block: keys and values of one layer.
#[derive(Debug)]
pub(crate) struct Place {
    /// Of all places.
    memory: Arc<DeviceMemory>,
    /// Which of its group the layer is.
    index: usize,
    spec: Arc<KvCacheSpec>,
    backend: u64,
}

impl Storage for Place {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Bytes that a layer's keys take in a block, and their scales.
fn key_bytes(kind: &KvCacheKind, spec: &KvCacheSpec) -> (usize, usize) {
    let rows = kind.num_kv_heads * spec.block_size;
    (rows * kind.head_dim * spec.dtype.size(), rows * spec.dtype.scale_size())
}

/// Bytes that a layer takes in a block.
fn layer_bytes(kind: &KvCacheKind, spec: &KvCacheSpec) -> usize {
    let (keys, scales) = key_bytes(kind, spec);
    2 * (keys + scales)
}

/// Bytes of a block: what the layers of a group take, of the group where that is most.
pub(crate) fn block_bytes(spec: &KvCacheSpec) -> usize {
    spec.block_size_of(|kind| layer_bytes(kind, spec)).next_multiple_of(ALIGNMENT)
}

/// A cache with unspecified contents.
pub(crate) fn alloc(device: &Device, backend: u64, spec: &KvCacheSpec) -> Result<KvCache> {
    if spec.block_size == 0 || !spec.block_size.is_multiple_of(BLOCK_GRANULE) {
        let detail = format!("block_size must be a multiple of {BLOCK_GRANULE} on CUDA, got {}", spec.block_size);
        return Err(Error::Shape { op: "alloc_kv_cache", detail });
    }
    let spec = Arc::new(spec.clone());
    let memory = Arc::new(device.alloc(&[spec.num_blocks, block_bytes(&spec)], "the key/value cache")?);
    Ok(KvCache::new(Arc::clone(&spec), |_, index| {
        Arc::new(Place { memory: Arc::clone(&memory), index, spec: Arc::clone(&spec), backend })
    }))
}

/// A layer's keys and values, if backend `backend` made them.
pub(crate) fn blocks(layer: &KvCacheLayer, backend: u64) -> Result<KvBlocks> {
    let place = layer.storage.as_any().downcast_ref::<Place>();
    let place = place.filter(|place| place.backend == backend && Arc::ptr_eq(&place.spec, &layer.spec));
    let place = place.ok_or(Error::ForeignStorage { backend: NAME })?;
    let (spec, kind) = (&layer.spec, layer.kind());
    let (key_bytes, scale_bytes) = key_bytes(kind, spec);
    let keys = place.memory.address() + (place.index * layer_bytes(kind, spec)) as u64;
    let scales = keys + 2 * key_bytes as u64;
    let of_scales = |address| if scale_bytes > 0 { address } else { 0 };
    Ok(KvBlocks {
        keys,
        values: keys + key_bytes as u64,
        key_scales: of_scales(scales),
        value_scales: of_scales(scales + scale_bytes as u64),
        block_bytes: block_bytes(spec) as i64,
        num_kv_heads: kind.num_kv_heads as i32,
        head_dim: kind.head_dim as i32,
        block_size: spec.block_size as i32,
        reserved: 0,
    })
}

/// Heads that a block of the kernel that turns and writes them takes, a warp each.
const BLOCK_HEADS: usize = 4;

/// What becomes of heads before they are written: `HeadRules` of `cuda/rotary_write_kv.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct HeadRules {
    pub q_norm: Address,
    pub k_norm: Address,
    pub cosines: Address,
    pub sines: Address,
    pub positions: Address,
    pub eps: f32,
    pub pairs: i32,
}

/// Writes keys and values whose operands were checked.
pub(crate) fn write(
    backend: &CudaBackend,
    k: &Tensor,
    v: &Tensor,
    layer: &KvCacheLayer,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let (k, v, cache) = (backend.view(k)?, backend.view(v)?, blocks(layer, backend.id)?);
    let slots = indices(&metadata.group(layer).slot_mapping, backend.id)?;
    let entries = ["write_kv_f32", "write_kv_f16", "write_kv_bf16", "write_kv_int8"];
    let grid = Grid::new((k.num_rows(), layer.kind().num_kv_heads, 1), 32);
    backend.device.launch(pick(layer.spec.dtype, entries), grid, &WriteKv { k, v, cache, slots })
}

/// Norms and turns queries in place, and writes keys, normed and turned too, and values. Operands were checked.
pub(crate) fn write_turned(
    backend: &CudaBackend,
    [q, k, v]: &[Tensor; 3],
    norm: Option<&QkRmsNorm<'_>>,
    rope: Option<&RopeTable>,
    layer: &KvCacheLayer,
    metadata: &AttentionMetadata,
) -> Result<()> {
    let (q, k, v, cache) = (backend.view(q)?, backend.view(k)?, backend.view(v)?, blocks(layer, backend.id)?);
    let slots = indices(&metadata.group(layer).slot_mapping, backend.id)?;
    let rules = HeadRules {
        q_norm: optional_vector(norm.map(|norm| norm.q), backend.id)?,
        k_norm: optional_vector(norm.map(|norm| norm.k), backend.id)?,
        cosines: optional_vector(rope.map(|rope| &rope.cos), backend.id)?,
        sines: optional_vector(rope.map(|rope| &rope.sin), backend.id)?,
        positions: indices(&metadata.positions, backend.id)?,
        eps: norm.map_or(0.0, |norm| norm.eps),
        pairs: rope.map_or(0, |rope| rope.cos.cols() as i32),
    };
    let entries = ["rotary_write_kv_f32", "rotary_write_kv_f16", "rotary_write_kv_bf16", "rotary_write_kv_int8"];
    let kind = layer.kind();
    let heads = q.num_cols() / kind.head_dim + 2 * kind.num_kv_heads;
    let shared_bytes = (BLOCK_HEADS * kind.head_dim * size_of::<f32>()) as u32;
    let blocks = (q.num_rows(), heads.div_ceil(BLOCK_HEADS), 1);
    let grid = Grid { shared_bytes, ..Grid::new(blocks, 32 * BLOCK_HEADS as u32) };
    backend.device.launch(pick(layer.spec.dtype, entries), grid, &RotaryWriteKv { q, k, v, cache, slots, rules })
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
