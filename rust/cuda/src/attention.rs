//! Attention: how an op is cut into the blocks of its kernels. `cuda/attention.cuh` has what they compute.
//!
//! ```text
//!   keys and values of 16 bits or int8, heads of a multiple of 8 up to 256      others: float32, other widths
//!     up to 16 queries of a sequence   attention_decode    16 queries a block     attention_*   a row a block
//!     more of them                     attention_prefill   64 queries a block
//!   longer than a split: spare blocks share the splits of what is long (cuda/attention_shares.cuh), and merge_splits
//! ```
//!
//! Which kernel a row's result comes from, and whether its splits are merged afterwards, changes none of its bits.

use std::sync::Arc;

use rustllm_ops::{
    AttentionMetadata, AttentionParams, Error, KvCacheDType, KvCacheLayer, Result, Tensor, checked_size,
};

use crate::backend::CudaBackend;
use crate::buffer::Buffer;
use crate::device::Grid;
use crate::encoder_distances::Distances;
use crate::kernels::{Attention, AttentionDecode, AttentionPrefill, MergeSplits};
use crate::kv_cache::{self, KvBlocks};
use crate::view::{Address, Matrix, indices, optional_vector};

/// Positions that a softmax is taken over at once: `SPLIT` of `cuda/attention.cuh`.
const SPLIT: usize = 256;

/// Query heads, and elements of a head, that a block of the scalar kernels takes at most.
pub(crate) const SCALAR_HEADS: usize = 4;
pub(crate) const SCALAR_DIMS: usize = 512;

/// Queries of a block of `cuda/attention_decode.cu` and of `cuda/attention_prefill.cu`, and positions of a tile.
const DECODE_QUERIES: usize = 16;
pub(crate) const PREFILL_QUERIES: usize = 64;
pub(crate) const TILE: usize = 64;

/// Partial softmaxes of a step are not worth more memory than this: it has room for two million positions of 32 heads of 128.
const MOST_PARTIAL_BYTES: usize = 128 << 20;

/// Blocks for each multiprocessor that share the splits of long sequences, and with how many others these are not needed.
const SPARE_BLOCKS: usize = 8;
const ENOUGH_BLOCKS: usize = 64;

pub(crate) const THREADS: u32 = 128;

/// Who sees whom, and what is done to scores: `ScoreRules` of `cuda/attention.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct ScoreRules {
    pub slopes: Address,
    pub sinks: Address,
    pub bias: Address,
    pub reach: i32,
    pub before: i32,
    pub ahead: i32,
    pub group: i32,
    pub scale: f32,
    pub soft_cap: f32,
    pub distances: Distances,
}

/// The sequences of a batch: `Sequences` of `cuda/attention.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Sequences {
    pub positions: Address,
    pub starts: Address,
    pub block_table: Address,
    pub num_seqs: i32,
    pub max_blocks: i32,
}

/// Softmaxes of splits: `Partials` of `cuda/attention_shares.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Partials {
    data: Address,
    first_slots: Address,
    slots: i32,
    spare: i32,
    head_dim: i32,
    most_rows: i32,
}

/// An attention op's operands, as its kernels take them.
struct Op<'a> {
    to: Matrix,
    q: Matrix,
    cache: KvBlocks,
    seqs: Sequences,
    rules: ScoreRules,
    dtype: KvCacheDType,
    metadata: &'a AttentionMetadata,
    params: &'a AttentionParams,
}

/// As many as there are, up to what an `i32` holds.
pub(crate) fn at_most(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// The splits that a block's rows may see: of the longest sequence, rounded up to a power of two, so that a step that was
/// recorded can be run again with longer sequences.
fn most_splits(metadata: &AttentionMetadata, params: &AttentionParams) -> usize {
    let longest = metadata.seq_lens.as_slice().iter().max().map_or(0, |len| *len as usize);
    let all = longest.div_ceil(SPLIT).max(1).next_power_of_two();
    // A window may begin and end inside splits, and a block's last row sees on from where its first one does.
    let by_window = |window: usize| window.saturating_add(DECODE_QUERIES).div_ceil(SPLIT) + 1;
    params.sliding_window.map_or(all, |window| all.min(by_window(window)))
}

pub(crate) fn head_dim_within(op: &'static str, head_dim: usize, most: usize) -> Result<i32> {
    match head_dim <= most {
        true => Ok(head_dim as i32),
        false => Err(Error::Shape { op, detail: format!("heads of {head_dim} elements, CUDA has up to {most}") }),
    }
}

/// The kernels on the tensor cores for a dtype and heads of up to `width` elements.
struct TensorCores {
    dtype: KvCacheDType,
    width: usize,
    decode: &'static str,
    prefill: &'static str,
}

impl TensorCores {
    fn of(dtype: KvCacheDType, head_dim: usize) -> Option<Self> {
        let width = [64, 128, 256].into_iter().find(|width| head_dim <= *width && head_dim.is_multiple_of(8))?;
        let (decode, prefill) = match (dtype, width) {
            (KvCacheDType::F32, _) => return None,
            (KvCacheDType::F16, 64) => ("attention_decode_f16_64", "attention_prefill_f16_64"),
            (KvCacheDType::F16, 128) => ("attention_decode_f16_128", "attention_prefill_f16_128"),
            (KvCacheDType::F16, _) => ("attention_decode_f16_256", "attention_prefill_f16_256"),
            (KvCacheDType::BF16, 64) => ("attention_decode_bf16_64", "attention_prefill_bf16_64"),
            (KvCacheDType::BF16, 128) => ("attention_decode_bf16_128", "attention_prefill_bf16_128"),
            (KvCacheDType::BF16, _) => ("attention_decode_bf16_256", "attention_prefill_bf16_256"),
            (KvCacheDType::Int8, 64) => ("attention_decode_int8_64", "attention_prefill_int8_64"),
            (KvCacheDType::Int8, 128) => ("attention_decode_int8_128", "attention_prefill_int8_128"),
            (KvCacheDType::Int8, _) => ("attention_decode_int8_256", "attention_prefill_int8_256"),
        };
        Some(Self { dtype, width, decode, prefill })
    }

    /// Parts of float32 numbers: `PARTS_OF` of `cuda/attention_mma.cuh`.
    fn parts(&self) -> usize {
        if self.dtype == KvCacheDType::F16 { 2 } else { 3 }
    }

    /// Stages of the decode kernel's pipeline. Codes have one before the tile that they become.
    fn stages(&self) -> usize {
        if self.width == 256 || self.dtype == KvCacheDType::Int8 { 1 } else { 2 }
    }

    /// The size of the tiles' `Memory` of `cuda/attention_tiles.cuh`.
    fn tile_bytes(&self) -> usize {
        match self.dtype {
            KvCacheDType::Int8 => shared_rows(TILE, self.width) + 2 * TILE * (self.width + 2 * size_of::<f32>()),
            _ => tile_bytes(self.width, 1),
        }
    }

    /// The size of `DecodeMemory`.
    fn decode_bytes(&self) -> usize {
        let queries = shared_rows(self.parts() * DECODE_QUERIES, self.width);
        let weights = shared_rows(self.parts() * DECODE_QUERIES, TILE);
        let of_queries = 9 * DECODE_QUERIES * size_of::<f32>();
        queries + weights + self.stages() * self.tile_bytes() + of_queries
    }

    fn prefill_bytes(&self) -> usize {
        prefill_bytes(self.width, self.parts(), self.tile_bytes())
    }

    /// Threads of a block of the prefill kernel: `PREFILL_WARPS` of `cuda/attention_prefill.cuh`.
    fn prefill_threads(&self) -> u32 {
        if self.width == 256 { 256 } else { THREADS }
    }
}

/// Bytes of shared memory for rows of numbers of 16 bits, eight more to a row so that rows begin in different banks.
fn shared_rows(rows: usize, cols: usize) -> usize {
    rows * (cols + 8) * 2
}

/// Bytes of a tile's keys and values that are sums of `parts` numbers of 16 bits.
pub(crate) fn tile_bytes(width: usize, parts: usize) -> usize {
    shared_rows(2 * parts * TILE, width)
}

/// The size of `PrefillMemory` of `cuda/attention_prefill.cuh`: queries of `parts`, and a tile.
pub(crate) fn prefill_bytes(width: usize, parts: usize, tile_bytes: usize) -> usize {
    shared_rows(parts * PREFILL_QUERIES, width) + tile_bytes + PREFILL_QUERIES * size_of::<f32>()
}

impl CudaBackend {
    pub(crate) fn paged_attention(
        &self,
        q: &Tensor,
        layer: &KvCacheLayer,
        metadata: &AttentionMetadata,
        params: &AttentionParams,
    ) -> Result<Tensor> {
        let cache = kv_cache::blocks(layer, self.id)?;
        head_dim_within("attention", params.head_dim, SCALAR_DIMS)?;
        let group = metadata.group(layer);
        let seqs = Sequences {
            positions: indices(&metadata.positions, self.id)?,
            starts: indices(&metadata.query_start_loc, self.id)?,
            block_table: indices(&group.block_table, self.id)?,
            num_seqs: at_most(metadata.num_seqs()),
            max_blocks: at_most(group.max_blocks_per_seq),
        };
        let (q, rules) = (self.view(q)?, self.causal_rules(params)?);
        let (result, to) = self.result(q.num_rows(), q.num_cols())?;
        let op = Op { to, q, cache, seqs, rules, dtype: layer.spec.dtype, metadata, params };
        match TensorCores::of(layer.spec.dtype, params.head_dim) {
            Some(kernels) => self.on_tensor_cores(&op, &kernels)?,
            None => self.row_by_row(&op)?,
        }
        Ok(result)
    }

    fn row_by_row(&self, op: &Op) -> Result<()> {
        let heads = op.params.num_kv_heads * (op.params.num_heads / op.params.num_kv_heads).div_ceil(SCALAR_HEADS);
        let rows = op.q.num_rows();
        let (partials, scratch) = self.partials(op, rows, (rows, heads))?;
        let entries = ["attention_f32", "attention_f16", "attention_bf16", "attention_int8"];
        let Op { to, q, cache, seqs, rules, .. } = *op;
        let grid = Grid::new((rows + partials.spare as usize, heads, 1), THREADS);
        let attention = Attention { to, q, cache, seqs, rules, partials };
        self.device.launch(kv_cache::pick(op.dtype, entries), grid, &attention)?;
        if scratch.is_some() { self.merge(op, rows, partials) } else { Ok(()) }
    }

    fn on_tensor_cores(&self, op: &Op, kernels: &TensorCores) -> Result<()> {
        let group = op.params.num_heads / op.params.num_kv_heads;
        // Without room for a prefill's tiles, all rows are done as a decode step's.
        let prefills = kernels.prefill_bytes() <= self.device.max_shared_bytes();
        let most_rows = if prefills { (DECODE_QUERIES / group).max(1) } else { usize::MAX };
        let rows = || op.metadata.query_start_loc.as_slice().windows(2).map(|bounds| (bounds[1] - bounds[0]) as usize);
        let (heads, most) = (op.params.num_kv_heads, at_most(most_rows));
        if prefills {
            let long = rows().filter(|rows| *rows > most_rows);
            let tiles = long.map(|rows| (rows * group).div_ceil(PREFILL_QUERIES)).sum();
            let grid = Grid::new((tiles, heads, 1), kernels.prefill_threads());
            let grid = Grid { shared_bytes: kernels.prefill_bytes() as u32, ..grid };
            let Op { to, q, cache, seqs, rules, .. } = *op;
            let attention = AttentionPrefill { to, q, cache, seqs, rules, most_rows: most };
            self.device.launch(kernels.prefill, grid, &attention)?;
        }
        let longest = rows().filter(|rows| *rows <= most_rows).max().unwrap_or(0);
        let tiles = (longest * group).div_ceil(DECODE_QUERIES);
        if tiles == 0 {
            return Ok(());
        }
        let blocks = op.metadata.num_seqs() * tiles;
        let rows = op.metadata.num_seqs() * longest;
        let (partials, scratch) = self.partials(op, rows, (blocks, heads))?;
        let partials = Partials { most_rows: at_most(longest), ..partials };
        let grid = Grid::new((blocks + partials.spare as usize, heads, 1), THREADS);
        let grid = Grid { shared_bytes: kernels.decode_bytes() as u32, ..grid };
        let Op { to, q, cache, seqs, rules, .. } = *op;
        let attention = AttentionDecode { to, q, cache, seqs, rules, partials, tiles: at_most(tiles), most_rows: most };
        self.device.launch(kernels.decode, grid, &attention)?;
        if scratch.is_some() { self.merge(op, rows, partials) } else { Ok(()) }
    }

    /// Memory for the softmaxes of the splits of `rows` rows, and how many blocks are spare beside `blocks` of each of `heads`:
    /// none, where sequences have no splits to share, or where there is enough to do for all of the device as it is.
    fn partials(
        &self,
        op: &Op,
        rows: usize,
        (blocks, heads): (usize, usize),
    ) -> Result<(Partials, Option<Arc<Buffer>>)> {
        let (splits, head_dim) = (most_splits(op.metadata, op.params), op.params.head_dim);
        let multiprocessors = self.device.num_multiprocessors();
        let whole = Partials { data: 0, first_slots: 0, slots: 0, spare: 0, head_dim: head_dim as i32, most_rows: 0 };
        if splits == 1 || blocks * heads >= ENOUGH_BLOCKS * multiprocessors {
            return Ok((whole, None));
        }
        let slot_bytes = checked_size(&[op.params.num_heads, head_dim + 2, size_of::<f32>()], "attention")?;
        let slots = rows.saturating_mul(splits).min(MOST_PARTIAL_BYTES / slot_bytes);
        let scratch = self.workspace(slots * slot_bytes + op.metadata.num_seqs() * size_of::<i32>())?;
        let spare = (SPARE_BLOCKS * multiprocessors).div_ceil(heads).min(blocks.saturating_mul(splits - 1));
        let data = scratch.address();
        let first_slots = data + (slots * slot_bytes) as Address;
        let partials = Partials { data, first_slots, slots: at_most(slots), spare: at_most(spare), ..whole };
        Ok((partials, Some(scratch)))
    }

    /// Brings the splits of `rows` rows together.
    fn merge(&self, op: &Op, rows: usize, partials: Partials) -> Result<()> {
        let Op { to, seqs, rules, .. } = *op;
        let grid = Grid::new((rows, op.params.num_heads, 1), THREADS);
        self.device.launch("merge_splits", grid, &MergeSplits { to, seqs, rules, partials })
    }

    fn causal_rules(&self, params: &AttentionParams) -> Result<ScoreRules> {
        Ok(ScoreRules {
            slopes: optional_vector(params.alibi_slopes.as_ref(), self.id)?,
            sinks: optional_vector(params.sinks.as_ref(), self.id)?,
            bias: 0,
            reach: 0,
            before: params.sliding_window.map_or(i32::MAX, |window| at_most(window.saturating_sub(1))),
            ahead: 0,
            group: (params.num_heads / params.num_kv_heads) as i32,
            scale: params.scale,
            soft_cap: params.soft_cap.unwrap_or(0.0),
            distances: Distances::default(),
        })
    }
}
