//! Attention's products: queries x keys and weights x values, register tile by register tile.
//!
//! ```text
//!              keys: C vectors of 16 positions                 values: C vectors of 16 elements
//!             ┌──────┬──────┬──────┬──────┐                   ┌──────┬──────┬──────┬──────┐
//!      d ──►  │ k[d] │ k[d] │ k[d] │ k[d] │      position ──► │ v[p] │ v[p] │ v[p] │ v[p] │
//!             └──────┴──────┴──────┴──────┘                   └──────┴──────┴──────┴──────┘
//!   q[0][d] ► │  +=  │  +=  │  +=  │  +=  │    weight[0][p] ► │  +=  │  +=  │  +=  │  +=  │   R x C sums stay in
//!   q[1][d] ► │  +=  │  +=  │  +=  │  +=  │    weight[1][p] ► │  +=  │  +=  │  +=  │  +=  │   registers
//! ```
//!
//! A score is one chain of multiply-adds over `d`, an output one over the positions, in order, whatever the tile.
#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and column")]
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels: pointers are valid for what the sizes say, the CPU has the features"
)]

use crate::attention::CHUNK;
use crate::simd::{LANES, Simd};

/// Vectors of positions in a step: what is scored, or weighed, by all queries before the next is touched.
pub(crate) const STEP_VECTORS: usize = 4;
/// Positions of a step.
pub(crate) const STEP: usize = STEP_VECTORS * LANES;

/// Elements from query to query of the scores of a chunk: off a power of two, which would crowd a few sets of the cache.
pub(crate) const SCORES_STRIDE: usize = CHUNK + LANES;

/// Bytes of a cache line.
pub(crate) const LINE: usize = 64;

/// Element type of a cache.
pub(crate) trait CacheElement<S: Simd> {
    const BYTES: usize;
    /// Whether every key and value has a scale.
    const SCALED: bool = false;
    unsafe fn load(from: *const u8) -> S::V;
}

/// Float32 cache.
pub(crate) struct CacheF32;
/// Half cache.
pub(crate) struct CacheF16;
/// bfloat16 cache.
pub(crate) struct CacheBf16;
/// Bytes with scales.
pub(crate) struct CacheInt8;

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

impl<S: Simd> CacheElement<S> for CacheInt8 {
    const BYTES: usize = 1;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn load(from: *const u8) -> S::V {
        S::load_i8(from.cast())
    }
}

/// A step's keys or values: where each sixteen positions start, and from where on the next step's will be read.
#[derive(Clone, Copy)]
pub(crate) struct Step {
    /// Null for vectors that no query sees.
    pub(crate) from: [*const u8; STEP_VECTORS],
    /// Bytes from row to row: of keys, elements `d` and `d + 1` of a position; of values, one position and the next.
    pub(crate) stride: usize,
    /// What to prefetch, laid out alike. Rows of float32 fill lines of their own, and the processor sees them coming.
    pub(crate) ahead: [*const u8; STEP_VECTORS],
}

impl Step {
    /// Converts `rows` rows of `vectors` vectors for each of the step's sixteen positions to float32 at `to`.
    #[inline(always)]
    pub(crate) unsafe fn widen<S: Simd, E: CacheElement<S>>(self, rows: usize, vectors: usize, to: *mut f32) -> Self {
        let mut wide = self;
        wide.stride = vectors * LANES * size_of::<f32>();
        for v in 0..STEP_VECTORS {
            let to = to.add(v * rows * vectors * LANES);
            wide.from[v] = to.cast_const().cast();
            wide.ahead[v] = wide.from[v];
            if self.from[v].is_null() {
                continue;
            }
            for row in 0..rows {
                let from = self.from[v].add(row * self.stride);
                for line in (0..vectors * LANES * E::BYTES).step_by(LINE) {
                    S::prefetch(self.ahead[v].wrapping_add(row * self.stride + line));
                }
                for vector in 0..vectors {
                    let value = E::load(from.add(vector * LANES * E::BYTES));
                    S::store(to.add((row * vectors + vector) * LANES), value);
                }
            }
        }
        wide
    }
}

/// Queries and where their results go: those of a block, at most eight.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    /// Factors. For scores, the queries' elements, all first ones, all second ones and so on; for values, the first query's
    /// weights of the step's positions, the next query's [`SCORES_STRIDE`] behind.
    pub(crate) x: *const f32,
    /// Scores of the step's positions, or outputs.
    pub(crate) to: *mut f32,
    pub(crate) to_stride: usize,
    /// Length of a query, or of an output.
    pub(crate) width: usize,
    /// Queries.
    pub(crate) count: usize,
}

/// A tile's kernel: some queries against vectors, or positions, `first .. last` of a step.
pub(crate) type Kernel = unsafe fn(rows: &Rows, step: &Step, first: usize, last: usize);

/// Calls `$kernel::<S, E, R>` with the number of rows.
macro_rules! with_rows {
    ($kernel:ident, $args:tt, $rows:expr) => {
        with_rows!($kernel, $args, $rows, 1 2 3 4 5 6 7 8)
    };
    ($kernel:ident, $args:tt, $rows:expr, $($count:literal)*) => {
        match $rows.count {
            $($count if const { $count <= S::QUERIES } => $kernel::<S, E, $count> $args,)*
            _ => unreachable!("QUERIES is at most eight"),
        }
    };
}

/// `scores = q . keys` for vectors `first .. last` of the step.
#[inline(always)]
pub(crate) unsafe fn score<S: Simd, E: CacheElement<S>>(rows: &Rows, step: &Step, first: usize, last: usize) {
    with_rows!(score_rows, (*rows, *step, first, last), rows);
}

/// `out += weights x values` for positions `first .. last` of the step.
#[inline(always)]
pub(crate) unsafe fn weigh<S: Simd, E: CacheElement<S>>(rows: &Rows, step: &Step, first: usize, last: usize) {
    with_rows!(weigh_rows, (*rows, *step, first, last), rows);
}

/// Cuts columns `first .. last` into tiles of 4, 2 or 1, the most there are accumulators for.
macro_rules! cut_columns {
    ($first:expr, $last:expr, |$column:ident, $count:ident| $tile:expr) => {
        let mut $column = $first;
        while $column < $last {
            let left = $last - $column;
            if const { R * 4 <= S::ACCUMULATORS } && left >= 4 {
                const $count: usize = 4;
                $tile;
                $column += 4;
            } else if const { R * 2 <= S::ACCUMULATORS } && left >= 2 {
                const $count: usize = 2;
                $tile;
                $column += 2;
            } else {
                const $count: usize = 1;
                $tile;
                $column += 1;
            }
        }
    };
}

#[inline(always)]
unsafe fn score_rows<S: Simd, E: CacheElement<S>, const R: usize>(rows: Rows, step: Step, first: usize, last: usize) {
    cut_columns!(first, last, |vector, C| score_tile::<S, E, R, C>(rows, step, vector));
}

#[inline(always)]
unsafe fn score_tile<S: Simd, E: CacheElement<S>, const R: usize, const C: usize>(
    rows: Rows,
    step: Step,
    first: usize,
) {
    let mut sums = [[S::splat(0.0); C]; R];
    let (mut from, mut ahead) = ([std::ptr::null(); C], [std::ptr::null(); C]);
    from.copy_from_slice(&step.from[first..first + C]);
    ahead.copy_from_slice(&step.ahead[first..first + C]);
    for d in 0..rows.width {
        let mut keys = [S::splat(0.0); C];
        for c in 0..C {
            keys[c] = E::load(from[c].add(d * step.stride));
            // Vectors that share a line, along `d` or along positions, ask for it once between them.
            if const { LANES * E::BYTES < LINE } && (d + first + c).is_multiple_of(const { LINE / (LANES * E::BYTES) })
            {
                S::prefetch(ahead[c].wrapping_add(d * step.stride));
            }
        }
        for r in 0..R {
            let x = S::splat(*rows.x.add(d * R + r));
            for c in 0..C {
                sums[r][c] = S::mul_add(x, keys[c], sums[r][c]);
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            S::store(rows.to.add(r * rows.to_stride + (first + c) * LANES), sums[r][c]);
        }
    }
}

#[inline(always)]
unsafe fn weigh_rows<S: Simd, E: CacheElement<S>, const R: usize>(rows: Rows, step: Step, first: usize, last: usize) {
    cut_columns!(0, rows.width / LANES, |column, C| weigh_tile::<S, E, R, C>(rows, step, column * LANES, first, last));
}

#[inline(always)]
unsafe fn weigh_tile<S: Simd, E: CacheElement<S>, const R: usize, const C: usize>(
    rows: Rows,
    step: Step,
    d: usize,
    first: usize,
    last: usize,
) {
    let to = rows.to.add(d);
    let mut sums = [[S::splat(0.0); C]; R];
    for r in 0..R {
        for c in 0..C {
            sums[r][c] = S::load(to.add(r * rows.to_stride + c * LANES));
        }
    }
    for vector in first / LANES..last.div_ceil(LANES) {
        let begin = vector * LANES;
        for position in first.max(begin)..last.min(begin + LANES) {
            let offset = (position - begin) * step.stride + d * E::BYTES;
            let from = step.from[vector].add(offset);
            if const { LANES * E::BYTES < LINE } {
                for line in (0..C * LANES * E::BYTES).step_by(LINE) {
                    S::prefetch(step.ahead[vector].wrapping_add(offset + line));
                }
            }
            let mut values = [S::splat(0.0); C];
            for c in 0..C {
                values[c] = E::load(from.add(c * LANES * E::BYTES));
            }
            for r in 0..R {
                let x = S::splat(*rows.x.add(r * SCORES_STRIDE + position));
                for c in 0..C {
                    sums[r][c] = S::mul_add(x, values[c], sums[r][c]);
                }
            }
        }
    }
    for r in 0..R {
        for c in 0..C {
            S::store(to.add(r * rows.to_stride + c * LANES), sums[r][c]);
        }
    }
}
