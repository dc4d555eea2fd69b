//! Causal attention over paged keys and values, with an online softmax.
//!
//! ```text
//!                  positions of the sequence, in tiles of 16 by absolute position
//!             tile 0      tile 1      tile 2      tile 3
//!          ┌───────────┬───────────┬───────────┬───────────┐
//!   row 40 │ ######### │ ######### │ #########  (masked)   │      a task: some rows of one sequence x one KV head.
//!   row 41 │ ######### │ ######### │ ########## (masked)   │      Every key and value vector is read once for all the
//!   ...    │           │           │           │           │      task's queries: its rows' x the KV head's query heads.
//!          └───────────┴───────────┴───────────┴───────────┘
//!
//!   a tile, up to 8 queries at once
//!     scores = Σ_d q[d] keys[d][0..16]      one chain over d a query, no sums across lanes
//!     m'     = max(m, max scores)           p = exp(scores - m'),  a = exp(m - m')
//!     l      = l a + p                      sixteen lanes, summed at the end
//!     out    = out a + Σ_i p[i] values[i]   positions in order
//! ```
//!
//! A query meets its tiles in order of position, and nothing else enters its arithmetic: not the rows or heads it is computed
//! with, nor how its sequence was cut into chunks and blocks. Positions it may not see contribute nothing, whatever is
//! stored there: their scores are replaced before they are used and their values are not read.
#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and panel")]
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `AttentionTask`'s")]

use crate::kv_cache::padded_head_dim;
use crate::math;
use crate::simd::{LANES, Simd};

/// A kernel's share of an attention op: rows of one sequence and one KV head.
///
/// Safety: pointers are valid for what the sizes say, `blocks` for every tile the positions reach; `out` is this
/// task's alone; `scratch` holds [`scratch_len`] elements.
#[derive(Debug, Clone, Copy)]
pub(crate) struct AttentionTask {
    /// The first row's query, at the KV head's first query head.
    pub(crate) q: *const f32,
    /// Elements from row to row of `q`.
    pub(crate) q_stride: usize,
    /// As `q`, for the result.
    pub(crate) out: *mut f32,
    /// Elements from row to row of `out`.
    pub(crate) out_stride: usize,
    /// Rows.
    pub(crate) rows: usize,
    /// Position of each row.
    pub(crate) positions: *const u32,
    /// Query heads of the KV head.
    pub(crate) group: usize,
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// Positions a row sees, its own included.
    pub(crate) window: usize,
    /// The KV head's keys in block 0.
    pub(crate) keys: *const u8,
    /// The KV head's values in block 0.
    pub(crate) values: *const u8,
    /// Elements from block to block of `keys`.
    pub(crate) key_block_stride: usize,
    /// Elements from block to block of `values`.
    pub(crate) value_block_stride: usize,
    /// The sequence's blocks.
    pub(crate) blocks: *const u32,
    /// Positions a block holds.
    pub(crate) block_size: usize,
    /// This thread's memory.
    pub(crate) scratch: *mut f32,
}

/// Elements of scratch for `queries` (rows x group).
pub(crate) fn scratch_len(queries: usize, head_dim: usize) -> usize {
    // Query, output, sixteen partial sums and the running maximum of each.
    queries * (head_dim + padded_head_dim(head_dim) + LANES + 1) + LANES
}

/// Element type of a cache.
pub(crate) trait CacheElement<S: Simd> {
    const BYTES: usize;
    unsafe fn load(from: *const u8) -> S::V;
}

/// Float32 cache.
pub(crate) struct CacheF32;
/// Half cache.
pub(crate) struct CacheF16;
/// bfloat16 cache.
pub(crate) struct CacheBf16;

impl<S: Simd> CacheElement<S> for CacheF32 {
    const BYTES: usize = 4;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::V {
        S::load(from.cast())
    }
}

impl<S: Simd> CacheElement<S> for CacheF16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::V {
        S::load_f16(from.cast())
    }
}

impl<S: Simd> CacheElement<S> for CacheBf16 {
    const BYTES: usize = 2;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::V {
        S::load_bf16(from.cast())
    }
}

/// What is kept of each query between tiles, in a task's scratch.
#[derive(Clone, Copy)]
struct State {
    q: *const f32,
    out: *mut f32,
    sums: *mut f32,
    max: *mut f32,
    /// Width of a query of `out`.
    out_width: usize,
    head_dim: usize,
}

/// A tile's keys and values and the positions of it that may be seen.
#[derive(Clone, Copy)]
struct Tile {
    keys: *const u8,
    key_stride: usize,
    values: *const u8,
    first: usize,
    last: usize,
    scale: f32,
}

/// Computes a task.
#[inline(always)]
pub(crate) unsafe fn attention<S: Simd, E: CacheElement<S>>(task: &AttentionTask) {
    let state = begin(task);
    let positions = std::slice::from_raw_parts(task.positions, task.rows);
    let first_of = |position: u32| (position as usize + 1).saturating_sub(task.window);
    let lowest = positions.iter().map(|p| first_of(*p)).min().unwrap_or(0);
    let all_see_from = positions.iter().map(|p| first_of(*p)).max().unwrap_or(0);
    let highest = positions.iter().max().map_or(0, |p| *p as usize);
    let all_see_to = positions.iter().min().map_or(0, |p| *p as usize);
    for start in (lowest / LANES * LANES..=highest).step_by(LANES) {
        let block = *task.blocks.add(start / task.block_size) as usize;
        let offset = start % task.block_size;
        let keys = task.keys.add((block * task.key_block_stride + offset) * E::BYTES);
        let value_row = padded_head_dim(task.head_dim);
        let values = task.values.add((block * task.value_block_stride + offset * value_row) * E::BYTES);
        let tile = Tile { keys, key_stride: task.block_size, values, first: 0, last: LANES, scale: task.scale };
        if start >= all_see_from && start + LANES <= all_see_to + 1 {
            queries::<S, E>(state, tile, 0, task.rows * task.group);
            continue;
        }
        for (row, position) in positions.iter().enumerate() {
            let first = first_of(*position).saturating_sub(start);
            let last = (*position as usize + 1).saturating_sub(start).min(LANES);
            if first < last {
                queries::<S, E>(state, Tile { first, last, ..tile }, row * task.group, (row + 1) * task.group);
            }
        }
    }
    finish::<S>(task, state);
}

/// Copies the queries together and clears the state.
#[inline(always)]
unsafe fn begin(task: &AttentionTask) -> State {
    let (queries, head_dim) = (task.rows * task.group, task.head_dim);
    let out_width = padded_head_dim(head_dim);
    let out = task.scratch;
    let sums = out.add(queries * out_width);
    let q = sums.add(queries * LANES);
    let max = q.add(queries * head_dim);
    out.write_bytes(0, queries * (out_width + LANES));
    for row in 0..task.rows {
        let from = task.q.add(row * task.q_stride);
        std::ptr::copy_nonoverlapping(from, q.add(row * task.group * head_dim), task.group * head_dim);
    }
    for query in 0..queries {
        *max.add(query) = f32::NEG_INFINITY;
    }
    State { q, out, sums, max, out_width, head_dim }
}

/// Queries `from .. to` against a tile, as many at once as registers allow.
#[inline(always)]
unsafe fn queries<S: Simd, E: CacheElement<S>>(state: State, tile: Tile, from: usize, to: usize) {
    let mut query = from;
    while query < to {
        let count = (to - query).min(S::QUERIES);
        macro_rules! dispatch {
            ($($count:literal)*) => {
                match count {
                    $($count if const { $count <= S::QUERIES } => update::<S, E, $count>(state, tile, query),)*
                    _ => unreachable!("QUERIES is at most eight"),
                }
            };
        }
        dispatch!(1 2 3 4 5 6 7 8);
        query += count;
    }
}

/// Brings a tile into the softmax of queries `query .. query + R`.
#[inline(always)]
unsafe fn update<S: Simd, E: CacheElement<S>, const R: usize>(state: State, tile: Tile, query: usize) {
    let mut scores = [S::splat(0.0); R];
    let q = state.q.add(query * state.head_dim);
    let mut keys = tile.keys;
    for d in 0..state.head_dim {
        let key = E::load(keys);
        for r in 0..R {
            scores[r] = S::mul_add(S::splat(*q.add(r * state.head_dim + d)), key, scores[r]);
        }
        keys = keys.add(tile.key_stride * E::BYTES);
    }
    let whole = tile.first == 0 && tile.last == LANES;
    let max = state.max.add(query);
    let (mut old, mut new) = ([0.0f32; LANES], [0.0f32; LANES]);
    for r in 0..R {
        scores[r] = S::mul(scores[r], S::splat(tile.scale));
        if !whole {
            scores[r] = S::select_range(tile.first, tile.last, scores[r], S::splat(f32::NEG_INFINITY));
        }
        let largest = S::reduce_max(scores[r]);
        old[r] = *max.add(r);
        new[r] = if old[r] > largest { old[r] } else { largest };
        *max.add(r) = new[r];
    }
    let mut decay = [0.0f32; LANES];
    S::store(decay.as_mut_ptr(), math::exp::<S>(S::sub(S::load(old.as_ptr()), S::load(new.as_ptr()))));
    let mut weights = [[0.0f32; LANES]; R];
    for r in 0..R {
        let p = math::exp::<S>(S::sub(scores[r], S::splat(new[r])));
        S::store(weights[r].as_mut_ptr(), p);
        let sums = state.sums.add((query + r) * LANES);
        S::store(sums, S::mul_add(S::load(sums), S::splat(decay[r]), p));
    }
    let mut d = 0;
    while d < state.out_width {
        if d + 2 * LANES <= state.out_width {
            accumulate::<S, E, R, 2>(state, tile, query, d, &weights, &decay);
            d += 2 * LANES;
        } else {
            accumulate::<S, E, R, 1>(state, tile, query, d, &weights, &decay);
            d += LANES;
        }
    }
}

/// `out[d ..] = out[d ..] * decay + Σ weights[i] * values[i][d ..]`, `C` vectors of it.
#[inline(always)]
unsafe fn accumulate<S: Simd, E: CacheElement<S>, const R: usize, const C: usize>(
    state: State,
    tile: Tile,
    query: usize,
    d: usize,
    weights: &[[f32; LANES]; R],
    decay: &[f32; LANES],
) {
    let out = state.out.add(query * state.out_width + d);
    let mut sums = [[S::splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = S::mul(S::load(out.add(r * state.out_width + c * LANES)), S::splat(decay[r]));
        }
    }
    let mut values = tile.values.add((tile.first * state.out_width + d) * E::BYTES);
    for i in tile.first..tile.last {
        for c in 0..C {
            let value = E::load(values.add(c * LANES * E::BYTES));
            for r in 0..R {
                sums[r][c] = S::mul_add(S::splat(*weights[r].get_unchecked(i)), value, sums[r][c]);
            }
        }
        values = values.add(state.out_width * E::BYTES);
    }
    for r in 0..R {
        for c in 0..C {
            S::store(out.add(r * state.out_width + c * LANES), sums[r][c]);
        }
    }
}

/// Divides by the sums and writes the rows.
#[inline(always)]
unsafe fn finish<S: Simd>(task: &AttentionTask, state: State) {
    for query in 0..task.rows * task.group {
        let (row, head) = (query / task.group, query % task.group);
        let to = task.out.add(row * task.out_stride + head * task.head_dim);
        let from = state.out.add(query * state.out_width);
        let inverse = S::splat(1.0 / S::reduce_add(S::load(state.sums.add(query * LANES))));
        for d in (0..task.head_dim).step_by(LANES) {
            S::store_partial(to.add(d), S::mul(S::load(from.add(d)), inverse), task.head_dim - d);
        }
    }
}
