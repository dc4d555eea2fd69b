//! What distances add to scores where they have keys and queries of their own.
//!
//! ```text
//!   keys of buckets       queries x buckets        a row for each query         score(i, j) += products[i][bucket(j - i)]
//!   queries of buckets    buckets x positions      a row for each bucket        score(i, j) += products[bucket(j - i)][j]
//! ```
//!
//! Products are made for the buckets of the distances at hand only: those between some queries and a chunk's positions, or all
//! queries and a step's. Each is one chain of multiply-adds over the elements of a head, whatever else is computed with it.

use super::{AttentionTask, CacheElement, Chunk, Memory, Span, blocks, step};
use crate::attention_tile::{Rows, SCORES_STRIDE, STEP, STEP_VECTORS, Step};
use crate::simd::{LANES, Simd};

/// Buckets whose queries lie side by side: as many as any instruction set has in a register tile.
pub(crate) const QUERY_BUCKETS: usize = 2;

/// What distances stand for in one head.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Distances {
    /// Keys of buckets, or null: sixteen buckets after sixteen, of these the elements `d` side by side.
    pub(crate) keys: *const f32,
    /// Queries of buckets, scaled, or null: [`QUERY_BUCKETS`] after [`QUERY_BUCKETS`], laid out alike.
    pub(crate) queries: *const f32,
    /// The bucket of a key at the query's own position; element `d` is that of one `d` positions after it.
    pub(crate) buckets: *const u32,
    /// Buckets there are, whole steps of them.
    pub(crate) num_buckets: usize,
    /// This thread's memory: [`products_len`] elements.
    pub(crate) products: *mut f32,
}

/// Elements for the products of `num_buckets` buckets: with a step's positions, or with a block of queries, which are fewer.
pub(crate) fn products_len(num_buckets: usize) -> usize {
    num_buckets * STEP
}

impl Distances {
    /// The lowest and the highest bucket of keys `nearest ..= farthest` positions after the query.
    unsafe fn met(&self, nearest: isize, farthest: isize) -> (usize, usize) {
        let buckets = (nearest..=farthest).map(|distance| *self.buckets.offset(distance) as usize);
        buckets.fold((usize::MAX, 0), |(low, high), bucket| (low.min(bucket), high.max(bucket)))
    }

    /// Adds to the scores of a chunk what its distances stand for.
    #[inline(always)]
    pub(super) unsafe fn add<S: Simd, E: CacheElement<S>>(&self, task: &AttentionTask, memory: Memory, chunk: &Chunk) {
        if !self.keys.is_null() {
            self.add_keys::<S, E>(task, memory, chunk);
        }
        if !self.queries.is_null() {
            self.add_queries::<S, E>(task, memory, chunk);
        }
    }

    /// Adds what the keys of buckets make of the queries.
    #[inline(always)]
    unsafe fn add_keys<S: Simd, E: CacheElement<S>>(&self, task: &AttentionTask, memory: Memory, chunk: &Chunk) {
        for (from, to) in blocks::<S, E>(task.rows) {
            let seen = chunk.seen[from..to].iter().fold(super::NOTHING, |any, row| any.hull(*row));
            if seen.is_empty() {
                continue;
            }
            let (low, high) = self.met_between(task, chunk, (from, to), seen);
            for index in low / STEP..high / STEP + 1 {
                let from_vector = |v: usize| self.keys.add((index * STEP + v * LANES) * task.head_dim).cast::<u8>();
                let keys: [*const u8; STEP_VECTORS] = std::array::from_fn(from_vector);
                let step = Step { from: keys, ahead: keys, stride: LANES * size_of::<f32>() };
                let rows = Rows {
                    x: memory.q.add(from * task.head_dim),
                    to: self.products.add(index * STEP),
                    to_stride: self.num_buckets,
                    width: task.head_dim,
                    count: to - from,
                };
                let (first, last) =
                    (low.max(index * STEP) - index * STEP, high.min((index + 1) * STEP - 1) - index * STEP);
                (task.tiles.score)(&rows, &step, first / LANES, last / LANES + 1);
            }
            for query in from..to {
                let scores = memory.scores.add(query * SCORES_STRIDE);
                let products = self.products.add((query - from) * self.num_buckets);
                let buckets = self.buckets.offset(offset(task, chunk, query));
                for position in chunk.seen[query].first..chunk.seen[query].last {
                    *scores.add(position) += *products.add(*buckets.add(position) as usize);
                }
            }
        }
    }

    /// Adds what the keys of positions make of the queries of buckets.
    #[inline(always)]
    unsafe fn add_queries<S: Simd, E: CacheElement<S>>(&self, task: &AttentionTask, memory: Memory, chunk: &Chunk) {
        for index in chunk.steps() {
            let this = Span { first: index * STEP, last: (index + 1) * STEP };
            let seen = chunk.all.and(this);
            let keys = step(&chunk.keys, &[], index, task.block_size * E::BYTES);
            let (first, last) = ((seen.first - this.first) / LANES, (seen.last - this.first).div_ceil(LANES));
            let (low, high) = self.met_between(task, chunk, (0, task.rows), seen);
            for bucket in (low / QUERY_BUCKETS * QUERY_BUCKETS..high + 1).step_by(QUERY_BUCKETS) {
                let rows = Rows {
                    x: self.queries.add(bucket * task.head_dim),
                    to: self.products.add(bucket * STEP),
                    to_stride: STEP,
                    width: task.head_dim,
                    count: QUERY_BUCKETS,
                };
                (task.tiles.score)(&rows, &keys, first, last);
            }
            for query in 0..task.rows {
                let scores = memory.scores.add(query * SCORES_STRIDE);
                let buckets = self.buckets.offset(offset(task, chunk, query));
                let seen = chunk.seen[query].and(this);
                for position in seen.first..seen.last {
                    let product = *buckets.add(position) as usize * STEP + position - this.first;
                    *scores.add(position) += *self.products.add(product);
                }
            }
        }
    }

    /// The buckets between queries `from .. to` and the positions `seen` of a chunk.
    unsafe fn met_between(
        &self,
        task: &AttentionTask,
        chunk: &Chunk,
        (from, to): (usize, usize),
        seen: Span,
    ) -> (usize, usize) {
        // Rows of a sequence stand in order.
        let (nearest, farthest) = (offset(task, chunk, to - 1), offset(task, chunk, from));
        self.met(nearest + seen.first as isize, farthest + seen.last as isize - 1)
    }
}

/// Positions from a query to the chunk's start: below zero where it lies before.
unsafe fn offset(task: &AttentionTask, chunk: &Chunk, query: usize) -> isize {
    chunk.start as isize - *task.positions.add(query) as isize
}
