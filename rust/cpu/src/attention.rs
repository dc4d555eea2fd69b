//! Causal attention over paged keys and values.
//!
//! ```text
//!               positions of the sequence, cut into chunks at multiples of 256 whatever the batch
//!                 chunk 0                  chunk 1                  chunk 2
//!          ┌────────────────────────┬────────────────────────┬────────────────────────┐
//!  row 600 │ ###################### │ ###################### │ ########               │   a task: some rows of one
//!  row 601 │ ###################### │ ###################### │ #########              │   sequence x one KV head, whose
//!   ...    └────────────────────────┴────────────────────────┴────────────────────────┘   queries share every read
//!                    │                        │                        │
//!            (max, sum, out)          (max, sum, out)          (max, sum, out)            a softmax each
//!                    └──────────►  combined in this order  ◄──────────┘
//!
//!   a chunk      scores  = q . keys                  step by step of 64 positions, all queries before the next step
//!                max     = max scores                weights = exp(scores - max), sum = Σ weights
//!                out     = Σ weights x values        positions in order
//!   combining    m'      = max(m, max)               out = out exp(m - m') + out of the chunk exp(max - m'), sum alike
//! ```
//!
//! A query meets its chunks in order of position, and nothing else enters its arithmetic: not the rows or heads it is computed
//! with, nor how its sequence was cut into steps of the engine and blocks. Whether one task goes through the chunks or several
//! tasks compute one each, to be combined afterwards ([`combine`]), is the same arithmetic too. Positions a query may not see
//! contribute nothing, whatever is stored there: their scores are replaced before they are used and their values are not read.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `AttentionTask`'s")]

mod distances;

use crate::attention_scores::ScoreRules;
use crate::attention_tile::{CacheElement, Kernel, LINE, Rows, SCORES_STRIDE, STEP, STEP_VECTORS, Step};
use crate::kv_cache::padded_head_dim;
use crate::math;
use crate::simd::{LANES, Simd};

pub(crate) use distances::{Distances, QUERY_BUCKETS, products_len};

/// Positions that a softmax is taken over at once.
pub(crate) const CHUNK: usize = 256;
/// Most rows of a task.
pub(crate) const MAX_ROWS: usize = 64;

const CHUNK_VECTORS: usize = CHUNK / LANES;
/// Most queries of a register tile.
const MAX_BLOCK: usize = 8;
/// Most parts that a block of queries sees a step in.
const MAX_PARTS: usize = 2 * MAX_BLOCK + 1;
/// Queries for which it pays to convert keys and values to float32 once.
const WORTH_WIDENING: usize = 16;

/// A kernel's share of an attention op: rows of one sequence, one KV head and some chunks.
///
/// Safety: pointers are valid for what the sizes say, `blocks` for every position seen (those before a window may be any number); `out`, or else `partials`, is
/// this task's alone; `scratch` holds [`scratch_len`] elements.
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
    /// Rows, at most [`MAX_ROWS`].
    pub(crate) rows: usize,
    /// Position of each row.
    pub(crate) positions: *const u32,
    /// Query heads of the KV head.
    pub(crate) group: usize,
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// Positions a row sees up to its own, which is included.
    pub(crate) window: usize,
    /// Positions a row sees after its own: none where attention is causal.
    pub(crate) ahead: usize,
    /// Positions there are. Rows of a causal sequence do not come near their end.
    pub(crate) positions_end: usize,
    /// Added to the scores of the first query head, if not null: element `d` is for a key `d` positions after the query.
    pub(crate) bias: *const f32,
    /// Elements from a query head's bias to the next one's.
    pub(crate) bias_stride: usize,
    /// What distances stand for, of a group of one query head.
    pub(crate) distances: Option<Distances>,
    /// What else is done to the scores.
    pub(crate) rules: ScoreRules,
    /// The KV head's keys in block 0.
    pub(crate) keys: *const u8,
    /// The KV head's values in block 0.
    pub(crate) values: *const u8,
    /// Bytes from block to block.
    pub(crate) block_bytes: usize,
    /// The sequence's blocks.
    pub(crate) blocks: *const u32,
    /// Positions a block holds.
    pub(crate) block_size: usize,
    /// The task's first chunk.
    pub(crate) first_chunk: usize,
    /// The chunk after its last.
    pub(crate) end_chunk: usize,
    /// The register tiles' kernels.
    pub(crate) tiles: Tiles,
    /// Where a partial result of each chunk goes ([`partial_len`] elements), to be combined by another task. Null if this
    /// one computes all chunks and writes `out`.
    pub(crate) partials: *mut f32,
    /// This thread's memory.
    pub(crate) scratch: *mut f32,
}

/// The kernels of register tiles. They are called through pointers so that a machine has each of them once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles {
    /// Scores against the cache's elements.
    pub(crate) score: Kernel,
    /// Weighs the cache's elements.
    pub(crate) weigh: Kernel,
    /// Scores against keys widened to float32.
    pub(crate) score_wide: Kernel,
    /// Weighs values widened to float32.
    pub(crate) weigh_wide: Kernel,
}

/// Elements of the partial result of a chunk: for each query its output, then a vector that starts with sum and maximum.
pub(crate) fn partial_len(queries: usize, head_dim: usize) -> usize {
    queries * (padded_head_dim(head_dim) + LANES)
}

/// Elements of scratch for `queries` (rows x group).
pub(crate) fn scratch_len(queries: usize, head_dim: usize) -> usize {
    // Queries, scores, results of a chunk and of all so far, and a step's keys or values.
    let widened = STEP * padded_head_dim(head_dim);
    queries * (padded_head_dim(head_dim) + SCORES_STRIDE) + 2 * partial_len(queries, head_dim) + widened
}

/// A task's scratch.
#[derive(Clone, Copy)]
struct Memory {
    q: *mut f32,
    scores: *mut f32,
    partial: *mut f32,
    total: *mut f32,
    widened: *mut f32,
}

impl Memory {
    unsafe fn of(task: &AttentionTask) -> Self {
        let (queries, width) = (task.rows * task.group, padded_head_dim(task.head_dim));
        let widened = task.scratch;
        let partial = widened.add(STEP * width);
        let total = partial.add(partial_len(queries, task.head_dim));
        let scores = total.add(partial_len(queries, task.head_dim));
        Self { q: scores.add(queries * SCORES_STRIDE), scores, partial, total, widened }
    }
}

/// Positions `first .. last` of a chunk.
#[derive(Clone, Copy)]
struct Span {
    first: usize,
    last: usize,
}

impl Span {
    fn is_empty(self) -> bool {
        self.first >= self.last
    }

    /// What lies in both.
    fn and(self, other: Self) -> Self {
        Self { first: self.first.max(other.first), last: self.last.min(other.last) }
    }

    /// From the first position in either to the last.
    fn hull(self, other: Self) -> Self {
        match (self.is_empty(), other.is_empty()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self { first: self.first.min(other.first), last: self.last.max(other.last) },
        }
    }
}

const NOTHING: Span = Span { first: 0, last: 0 };

/// Where the keys or values of sixteen positions start; null where nobody sees them.
type Starts = [*const u8; CHUNK_VECTORS];

/// A chunk of a task: what each row sees of it, and where that is.
struct Chunk {
    /// The first position.
    start: usize,
    seen: [Span; MAX_ROWS],
    /// What any row sees.
    all: Span,
    keys: Starts,
    values: Starts,
    key_scales: [*const f32; CHUNK_VECTORS],
    value_scales: [*const f32; CHUNK_VECTORS],
}

impl Chunk {
    #[inline(always)]
    unsafe fn find<S: Simd, E: CacheElement<S>>(task: &AttentionTask, index: usize) -> Self {
        let mut chunk = Self {
            start: index * CHUNK,
            seen: [NOTHING; MAX_ROWS],
            all: NOTHING,
            keys: [std::ptr::null(); CHUNK_VECTORS],
            values: [std::ptr::null(); CHUNK_VECTORS],
            key_scales: [std::ptr::null(); CHUNK_VECTORS],
            value_scales: [std::ptr::null(); CHUNK_VECTORS],
        };
        for row in 0..task.rows {
            chunk.seen[row] = seen(task, row, index);
            chunk.all = chunk.all.hull(chunk.seen[row]);
        }
        let width = padded_head_dim(task.head_dim);
        for vector in chunk.all.first / LANES..chunk.all.last.div_ceil(LANES) {
            let position = chunk.start + vector * LANES;
            let (block, offset) = (*task.blocks.add(position / task.block_size) as usize, position % task.block_size);
            let keys = task.keys.add(block * task.block_bytes);
            let values = task.values.add(block * task.block_bytes);
            chunk.keys[vector] = keys.add(offset * E::BYTES);
            chunk.values[vector] = values.add(offset * width * E::BYTES);
            if E::SCALED {
                let elements = task.block_size * E::BYTES;
                chunk.key_scales[vector] = keys.add(task.head_dim * elements).cast::<f32>().add(offset);
                chunk.value_scales[vector] = values.add(width * elements).cast::<f32>().add(offset);
            }
        }
        chunk
    }

    /// Steps that hold what is seen.
    fn steps(&self) -> std::ops::Range<usize> {
        self.all.first / STEP..self.all.last.div_ceil(STEP)
    }

    /// What any query from `from` to `to` sees of step `index`.
    fn seen_by(&self, task: &AttentionTask, from: usize, to: usize, index: usize) -> Span {
        let rows = &self.seen[from / task.group..=(to - 1) / task.group];
        let any = rows.iter().fold(NOTHING, |any, row| any.hull(*row));
        any.and(Span { first: index * STEP, last: (index + 1) * STEP })
    }
}

/// What a row sees of its sequence.
#[inline(always)]
unsafe fn reach(task: &AttentionTask, row: usize) -> Span {
    let end = *task.positions.add(row) as usize + 1;
    Span { first: end.saturating_sub(task.window), last: end.saturating_add(task.ahead).min(task.positions_end) }
}

/// What a row sees of a chunk.
#[inline(always)]
unsafe fn seen(task: &AttentionTask, row: usize, chunk: usize) -> Span {
    let inside = |position: usize| position.saturating_sub(chunk * CHUNK).min(CHUNK);
    let Span { first, last } = reach(task, row);
    Span { first: inside(first), last: inside(last) }
}

/// Step `index` of keys or values. What is read `after` the last one is prefetched with it.
fn step(starts: &Starts, after: &[*const u8], index: usize, stride: usize) -> Step {
    let (this, next) = (index * STEP_VECTORS, (index + 1) * STEP_VECTORS);
    let next = starts.get(next..next + STEP_VECTORS).filter(|next| !next[0].is_null()).unwrap_or(after);
    let mut step = Step { from: [std::ptr::null(); STEP_VECTORS], ahead: [std::ptr::null(); STEP_VECTORS], stride };
    for v in 0..STEP_VECTORS {
        step.from[v] = starts[this + v];
        step.ahead[v] = next.get(v).copied().filter(|next| !next.is_null()).unwrap_or(step.from[v]);
    }
    step
}

/// Whether keys and values are converted to float32 once for all queries, and not for each block of them.
fn widens<S: Simd, E: CacheElement<S>>(queries: usize) -> bool {
    E::BYTES < size_of::<f32>() && queries >= WORTH_WIDENING
}

/// Queries `from .. to` that are computed in one register tile, one such range after another. Against elements that are
/// converted on the way, as many as possible; else, where there are registers for it, as many as go with all of a step's vectors.
fn blocks<S: Simd, E: CacheElement<S>>(queries: usize) -> impl Iterator<Item = (usize, usize)> {
    let with_a_step = S::ACCUMULATORS / STEP_VECTORS;
    let most = if widens::<S, E>(queries) && with_a_step >= STEP_VECTORS { with_a_step } else { S::QUERIES };
    let count = queries.div_ceil(most);
    (0..count).map(move |block| (block * queries / count, (block + 1) * queries / count))
}

/// Computes a task.
#[inline(always)]
pub(crate) unsafe fn attention<S: Simd, E: CacheElement<S>>(task: &AttentionTask) {
    let memory = Memory::of(task);
    scale_queries::<S, E>(task, memory);
    let mut chunk = Chunk::find::<S, E>(task, task.first_chunk);
    for index in task.first_chunk..task.end_chunk {
        let next = (index + 1 < task.end_chunk).then(|| Chunk::find::<S, E>(task, index + 1));
        let partial = match task.partials.is_null() {
            true => memory.partial,
            false => task.partials.add((index - task.first_chunk) * partial_len(task.rows * task.group, task.head_dim)),
        };
        scores::<S, E>(task, memory, &chunk);
        if let Some(distances) = &task.distances {
            distances.add::<S, E>(task, memory, &chunk);
        }
        if !task.bias.is_null() {
            add_bias::<S>(task, memory, &chunk, index);
        }
        match task.rules.change_scores() {
            false => weights::<S, E, false>(task, memory, &chunk, partial),
            true => weights::<S, E, true>(task, memory, &chunk, partial),
        }
        let after = next.as_ref().map_or(&[][..], |next| &next.keys[..STEP_VECTORS]);
        outputs::<S, E>(task, memory, &chunk, after, partial);
        if task.partials.is_null() {
            combine_chunk::<S>(task, memory.total, partial, index);
        }
        if let Some(next) = next {
            chunk = next;
        }
    }
    if task.partials.is_null() {
        finish::<S>(task, memory.total);
    }
}

/// Combines the partial results of all chunks, `task.partials`, and writes the rows.
#[inline(always)]
pub(crate) unsafe fn combine<S: Simd>(task: &AttentionTask) {
    let memory = Memory::of(task);
    for index in task.first_chunk..task.end_chunk {
        let len = partial_len(task.rows * task.group, task.head_dim);
        combine_chunk::<S>(task, memory.total, task.partials.add((index - task.first_chunk) * len), index);
    }
    finish::<S>(task, memory.total);
}

/// Copies the queries together, scaled: block after block, the elements `d` of a block's queries side by side.
#[inline(always)]
unsafe fn scale_queries<S: Simd, E: CacheElement<S>>(task: &AttentionTask, memory: Memory) {
    for row in 0..task.rows {
        let q = task.q.add(row * task.q_stride);
        for d in (0..task.group * task.head_dim).step_by(LANES) {
            S::prefetch(q.add(d).cast());
        }
    }
    for (from, to) in blocks::<S, E>(task.rows * task.group) {
        let mut next = memory.q.add(from * task.head_dim);
        let mut queries = [std::ptr::null(); MAX_BLOCK];
        for (query, start) in (from..to).zip(&mut queries) {
            *start = task.q.add(query / task.group * task.q_stride + query % task.group * task.head_dim);
        }
        for d in 0..task.head_dim {
            for query in &queries[..to - from] {
                *next = *query.add(d) * task.scale;
                next = next.add(1);
            }
        }
    }
}

/// Scores of all queries for the vectors of positions they see.
#[inline(always)]
unsafe fn scores<S: Simd, E: CacheElement<S>>(task: &AttentionTask, memory: Memory, chunk: &Chunk) {
    let queries = task.rows * task.group;
    let widens = widens::<S, E>(queries);
    let kernel = if widens { task.tiles.score_wide } else { task.tiles.score };
    for index in chunk.steps() {
        let values = &chunk.values[chunk.steps().start * STEP_VECTORS..][..STEP_VECTORS];
        let mut keys = step(&chunk.keys, values, index, task.block_size * E::BYTES);
        if widens {
            keys = keys.widen::<S, E>(task.head_dim, 1, memory.widened);
        }
        for (from, to) in blocks::<S, E>(queries) {
            let seen = chunk.seen_by(task, from, to, index);
            if seen.is_empty() {
                continue;
            }
            let (first, last) = ((seen.first - index * STEP) / LANES, (seen.last - index * STEP).div_ceil(LANES));
            let rows = Rows {
                x: memory.q.add(from * task.head_dim),
                to: memory.scores.add(from * SCORES_STRIDE + index * STEP),
                to_stride: SCORES_STRIDE,
                width: task.head_dim,
                count: to - from,
            };
            kernel(&rows, &keys, first, last);
        }
    }
}

/// Adds each query's bias to its scores of chunk `index`, whole vectors at a time.
#[inline(always)]
unsafe fn add_bias<S: Simd>(task: &AttentionTask, memory: Memory, chunk: &Chunk, index: usize) {
    for query in 0..task.rows * task.group {
        let (row, head) = (query / task.group, query % task.group);
        let Span { first, last } = chunk.seen[row];
        let scores = memory.scores.add(query * SCORES_STRIDE);
        let bias = task.bias.add(head * task.bias_stride).offset(-(*task.positions.add(row) as isize));
        for vector in first / LANES..last.div_ceil(LANES) {
            let to = scores.add(vector * LANES);
            S::store(to, S::add(S::load(to), S::load(bias.add(index * CHUNK + vector * LANES))));
        }
    }
}

/// Turns each query's scores into weights; their sum and the largest score go to `partial`. `RULES` says whether
/// `task.rules` change scores.
#[inline(always)]
unsafe fn weights<S: Simd, E: CacheElement<S>, const RULES: bool>(
    task: &AttentionTask,
    memory: Memory,
    chunk: &Chunk,
    partial: *mut f32,
) {
    let width = padded_head_dim(task.head_dim);
    let value_bytes = if widens::<S, E>(task.rows * task.group) { 0 } else { LANES * width * E::BYTES };
    for query in 0..task.rows * task.group {
        let Span { first, last } = chunk.seen[query / task.group];
        let scores = memory.scores.add(query * SCORES_STRIDE);
        let vectors = first / LANES..last.div_ceil(LANES);
        let mut max = S::splat(f32::NEG_INFINITY);
        for vector in vectors.clone() {
            let (to, begin) = (scores.add(vector * LANES), vector * LANES);
            let mut score = S::load(to);
            if E::SCALED {
                score = S::mul(score, S::load(chunk.key_scales[vector]));
            }
            if RULES {
                let own = *task.positions.add(query / task.group) as usize;
                let distance = (chunk.start + begin) as f32 - own as f32;
                score = task.rules.apply::<S>(query % task.group, distance, score);
            }
            let whole = first <= begin && begin + LANES <= last;
            if !whole {
                let unseen = S::splat(f32::NEG_INFINITY);
                score = S::select_range(first.saturating_sub(begin), (last - begin).min(LANES), score, unseen);
            }
            if E::SCALED || RULES || !whole {
                S::store(to, score);
            }
            max = S::max(score, max);
        }
        let max = S::reduce_max(max);
        let mut sum = S::splat(0.0);
        for vector in vectors {
            // Memory need not rest: each query asks for a part of the values.
            for line in [2 * query, 2 * query + 1] {
                if line * LINE < value_bytes {
                    S::prefetch(chunk.values[vector].wrapping_add(line * LINE));
                }
            }
            let to = scores.add(vector * LANES);
            let mut weight = math::exp::<S>(S::sub(S::load(to), S::splat(max)));
            sum = S::add(sum, weight);
            if E::SCALED {
                weight = S::mul(weight, S::load(chunk.value_scales[vector]));
            }
            S::store(to, weight);
        }
        let to = partial.add(query * (width + LANES) + width);
        S::store(to, S::splat(0.0));
        (*to, *to.add(1)) = (S::reduce_add(sum), max);
    }
}

/// The weighted values of all queries, to `partial`.
#[inline(always)]
unsafe fn outputs<S: Simd, E: CacheElement<S>>(
    task: &AttentionTask,
    memory: Memory,
    chunk: &Chunk,
    after: &[*const u8],
    partial: *mut f32,
) {
    let (queries, width) = (task.rows * task.group, padded_head_dim(task.head_dim));
    let widens = widens::<S, E>(queries);
    let kernel = if widens { task.tiles.weigh_wide } else { task.tiles.weigh };
    for query in 0..queries {
        partial.add(query * (width + LANES)).write_bytes(0, width);
    }
    for index in chunk.steps() {
        let mut values = step(&chunk.values, after, index, width * E::BYTES);
        if widens {
            values = values.widen::<S, E>(LANES, width / LANES, memory.widened);
        }
        for block in blocks::<S, E>(queries) {
            let (parts, count) = parts(task, chunk, block, index);
            for (from, to, seen) in &parts[..count] {
                let rows = Rows {
                    x: memory.scores.add(from * SCORES_STRIDE + index * STEP),
                    to: partial.add(from * (width + LANES)),
                    to_stride: width + LANES,
                    width,
                    count: to - from,
                };
                kernel(&rows, &values, seen.first - index * STEP, seen.last - index * STEP);
            }
        }
    }
}

/// Queries (first, last) and the positions they are weighed for together.
type Part = (usize, usize, Span);

/// What queries `from .. to` see of step `index`: together where all of them see it, row by row before and after that. A
/// query meets what it sees in order. Returns the parts and their number.
fn parts(task: &AttentionTask, chunk: &Chunk, (from, to): (usize, usize), index: usize) -> ([Part; MAX_PARTS], usize) {
    let step = Span { first: index * STEP, last: (index + 1) * STEP };
    let rows = from / task.group..(to - 1) / task.group + 1;
    let common = chunk.seen[rows.clone()].iter().fold(step, |common, row| common.and(*row));
    let (mut parts, mut count) = ([(0, 0, NOTHING); MAX_PARTS], 0);
    let mut add = |from: usize, to: usize, span: Span| {
        if !span.is_empty() {
            parts[count] = (from, to, span);
            count += 1;
        }
    };
    let before = if common.is_empty() { step } else { Span { last: common.first, ..step } };
    for row in rows.clone() {
        add(from.max(row * task.group), to.min((row + 1) * task.group), chunk.seen[row].and(before));
    }
    if !common.is_empty() {
        add(from, to, common);
        for row in rows {
            let after = chunk.seen[row].and(Span { first: common.last, ..step });
            add(from.max(row * task.group), to.min((row + 1) * task.group), after);
        }
    }
    (parts, count)
}

/// Brings the partial result of a chunk into `total`.
#[inline(always)]
unsafe fn combine_chunk<S: Simd>(task: &AttentionTask, total: *mut f32, partial: *const f32, index: usize) {
    let width = padded_head_dim(task.head_dim);
    for query in 0..task.rows * task.group {
        let (total, partial) = (total.add(query * (width + LANES)), partial.add(query * (width + LANES)));
        let seen = seen(task, query / task.group, index);
        if seen.is_empty() {
            continue;
        }
        if reach(task, query / task.group).first / CHUNK == index {
            std::ptr::copy_nonoverlapping(partial, total, width + LANES);
            continue;
        }
        let (old, new) = (*total.add(width + 1), *partial.add(width + 1));
        let max = if old > new { old } else { new };
        let mut decay = [0.0f32; LANES];
        (decay[0], decay[1]) = (old - max, new - max);
        S::store(decay.as_mut_ptr(), math::exp::<S>(S::load(decay.as_ptr())));
        for d in (0..width + LANES).step_by(LANES) {
            let old = S::mul(S::load(total.add(d)), S::splat(decay[0]));
            S::store(total.add(d), S::mul_add(S::load(partial.add(d)), S::splat(decay[1]), old));
        }
        *total.add(width + 1) = max;
    }
}

/// Divides by the sums and writes the rows.
#[inline(always)]
unsafe fn finish<S: Simd>(task: &AttentionTask, total: *const f32) {
    let width = padded_head_dim(task.head_dim);
    for query in 0..task.rows * task.group {
        let (row, head) = (query / task.group, query % task.group);
        let to = task.out.add(row * task.out_stride + head * task.head_dim);
        let from = total.add(query * (width + LANES));
        let sum = *from.add(width) + task.rules.sink::<S>(head, *from.add(width + 1));
        let inverse = S::splat(1.0 / sum);
        for d in (0..task.head_dim).step_by(LANES) {
            S::store_partial(to.add(d), S::mul(S::load(from.add(d)), inverse), task.head_dim - d);
        }
    }
}
