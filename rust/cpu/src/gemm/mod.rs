//! The product of activations and packed weights, for any number of rows and every weight format.
//!
//! ```text
//!                      weights: C panels of 16 outputs
//!                     ┌──────┬──────┬──────┬──────┐
//!             k ──►   │ w[k] │ w[k] │ w[k] │ w[k] │    C vectors a step, read once for R rows
//!                     └──────┴──────┴──────┴──────┘
//!   x[row 0][k] ───►  │  +=  │  +=  │  +=  │  +=  │
//!   x[row 1][k] ───►  │  +=  │  +=  │  +=  │  +=  │    R x C accumulators stay in registers
//!     ...
//!   x[row 5][k] ───►  │  +=  │  +=  │  +=  │  +=  │    AVX-512: 6 x 4 or 8 x 3 of 32 registers
//!
//!   few rows (one tile holds them)            many rows (runs of R), block by block of k
//!     panels  ═════ all of k ═════►             panels  ═ block ═►   C panels' block stays in the caches,
//!     the next panels' first bytes are            run 0  tile        unpacked to what is multiplied fastest;
//!     prefetched as the last are used             run 1  tile        the next block is prefetched meanwhile
//! ```
//!
//! A word is four bytes of activations: one float32, two bfloat16 or four int8. Activations come packed as `[run][word][R]`
//! (see `inputs`), so that a tile reads them as one stream.
//!
//! Every output is one chain of sums over `k` in order, whichever tile computes it; a tile that stops at the end of a
//! block stores its sums and loads them for the next one, which changes no bit. That is why a row's result does not
//! depend on the rows beside it, nor on how the work was cut up.
#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and panel")]
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `LinearTask`'s")]

mod inputs;
mod product;

#[cfg(target_arch = "x86_64")]
pub(crate) use inputs::PairsBf16;
pub(crate) use inputs::Quantized;
pub(crate) use inputs::{InputsTask, PlainF32, RoundedBf16, RoundedF16, pack_inputs};
pub(crate) use product::{Bf16, ByteDot, F16, F32, Int4, Int8, Product, Widening};
#[cfg(target_arch = "x86_64")]
pub(crate) use product::{Bf16Dot, Vnni};

use crate::simd::{LANES, Simd, prefetch};

/// Words of `k` computed for all runs before the next are: a tile's panels are 64 KiB of them, which stream from the
/// second-level cache while the rows' words wait there for the next panels.
pub(crate) const BLOCK_WORDS: usize = 256;

/// Words between looks at what to prefetch, where the format has no groups.
pub(crate) const PLAIN_GROUP_WORDS: usize = 64;

/// Bytes of a panel that are asked for before they are used, where panels are read straight from memory.
const PREFETCH_AHEAD: usize = 2048;

/// Most runs that share the prefetching of a block.
const MAX_SHARES: usize = 8;

/// Bytes of scratch a task needs: a block of four panels at 64 bytes a word, and a header (scales, zero points) a group.
pub(crate) const SCRATCH_BYTES: usize = 4 * BLOCK_WORDS * (64 + 128 / 8);

/// A share of a linear layer: some runs of rows, some panels.
///
/// Safety: pointers are valid for what the sizes say; `y`'s rows and columns and the scratch are this task's alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearTask {
    /// Packed activations: the first run's words.
    pub(crate) x: *const u32,
    /// Words of a row; whole groups.
    pub(crate) words: usize,
    /// Rows of a run.
    pub(crate) tile_rows: usize,
    /// Rows of `y`: the last run may have fewer than `tile_rows`.
    pub(crate) rows: usize,
    /// What a code of each row stands for; of int8 activations.
    pub(crate) row_scales: *const f32,
    /// Where the integer sum of each `[run][group][row]` starts; of int8 activations.
    pub(crate) offsets: *const i32,
    /// The task's first panel.
    pub(crate) weights: *const u8,
    /// Bytes from panel to panel.
    pub(crate) panel_bytes: usize,
    /// Words of a group.
    pub(crate) group_words: usize,
    /// What a code of each output stands for; of int8 weights.
    pub(crate) col_scales: *const f32,
    /// The first row's first output.
    pub(crate) y: *mut f32,
    /// Elements from row to row of `y`.
    pub(crate) y_stride: usize,
    /// Outputs a row.
    pub(crate) cols: usize,
    /// Added to the sums; null for none.
    pub(crate) bias: *const f32,
    /// [`SCRATCH_BYTES`] of this thread's memory.
    pub(crate) scratch: *mut u8,
}

/// A block of `C` panels as a tile reads it.
#[derive(Clone, Copy)]
struct Block {
    /// The first panel's block.
    weights: *const u8,
    /// Bytes from panel to panel.
    stride: usize,
    /// First group and number of groups.
    first_group: usize,
    groups: usize,
    /// Words of the block.
    words: usize,
    /// First column of the task.
    col: usize,
    /// Whether sums start here, and whether they end.
    first: bool,
    last: bool,
    ahead: Ahead,
}

/// What is prefetched while a tile is computed: group `g + groups` of what is read, as far as it goes, then what is next.
#[derive(Clone, Copy)]
struct Ahead {
    groups: usize,
    next: *const u8,
    stride: usize,
    group_bytes: usize,
    step_bytes: usize,
}

/// Panels of a product's register tile by its number of rows.
const fn tile_panels<S: Simd, P: Product<S>>(rows: usize) -> usize {
    if P::GROUPED { S::GROUPED_TILES.panels[rows] } else { S::TILES.panels[rows] }
}

/// Computes a task.
#[inline(always)]
pub(crate) unsafe fn linear<S: Simd, P: Product<S>>(task: &LinearTask) {
    macro_rules! dispatch {
        ($($rows:literal)*) => {
            match task.tile_rows {
                $(
                    $rows if const { tile_panels::<S, P>($rows) == 1 } => panels::<S, P, $rows, 1>(task),
                    $rows if const { tile_panels::<S, P>($rows) == 2 } => panels::<S, P, $rows, 2>(task),
                    $rows if const { tile_panels::<S, P>($rows) == 3 } => panels::<S, P, $rows, 3>(task),
                    $rows if const { tile_panels::<S, P>($rows) == 4 } => panels::<S, P, $rows, 4>(task),
                )*
                _ => unreachable!("a plan takes its tile from the instruction set's list"),
            }
        };
    }
    dispatch!(1 2 3 4 6 8);
}

/// Block by block, `C` panels at a time, all runs of `R` rows.
#[inline(always)]
unsafe fn panels<S: Simd, P: Product<S>, const R: usize, const C: usize>(task: &LinearTask) {
    let runs = task.rows.div_ceil(R);
    let unpack = runs >= P::UNPACK_RUNS;
    let block_words = if runs == 1 { task.words.max(1) } else { BLOCK_WORDS };
    let panels = task.cols.div_ceil(LANES);
    let group_bytes = P::group_bytes(task.group_words);
    let blocks = task.words.div_ceil(block_words).max(1);
    for index in 0..blocks {
        let words = block_words.min(task.words - index * block_words);
        let first_group = index * block_words / task.group_words;
        let groups = words.div_ceil(task.group_words);
        for panel in (0..panels).step_by(C) {
            let of = |panel: usize, group: usize| task.weights.add(panel * task.panel_bytes + group * group_bytes);
            let weights = of(panel, first_group);
            let next = if panel + C < panels {
                of(panel + C, first_group)
            } else if index + 1 < blocks {
                of(0, first_group + groups)
            } else {
                weights
            };
            let ahead_groups = if runs == 1 { PREFETCH_AHEAD.div_ceil(group_bytes) } else { groups };
            let step_bytes = if unpack { P::W_BYTES / P::WORDS * P::Wide::WORDS } else { P::W_BYTES };
            // Each run asks for its share of the next block, so that the memory is busy during all of them.
            let shares = runs.min(MAX_SHARES);
            let share_bytes = groups * group_bytes / shares;
            let (step_bytes, group_bytes) = (step_bytes / shares, group_bytes / shares);
            let stride = task.panel_bytes;
            let ahead = Ahead { groups: ahead_groups, next, stride, group_bytes, step_bytes };
            let (first, last) = (index == 0, index + 1 == blocks);
            let col = panel * LANES;
            let mut block = Block { weights, stride, first_group, groups, words, col, first, last, ahead };
            if unpack {
                let present = (panels - panel).min(C);
                block.weights = task.scratch;
                block.stride = P::Wide::group_bytes(task.group_words) * groups;
                for c in 0..present {
                    P::unpack(weights.add(c * stride), words, task.group_words, task.scratch.add(c * block.stride));
                }
            }
            for run in 0..runs {
                if unpack {
                    tile::<S, P::Wide, R, C>(task, &block, run);
                } else {
                    tile::<S, P, R, C>(task, &block, run);
                }
                block.ahead = if run + 1 < shares {
                    Ahead { next: ahead.next.wrapping_add((run + 1) * share_bytes), ..ahead }
                } else {
                    Ahead { groups: 0, next: block.weights, stride: 0, group_bytes: 0, step_bytes: 0 }
                };
            }
        }
    }
}

/// `R` rows of `C` panels, of which those past the task's columns are computed as copies of the first and dropped.
#[inline(always)]
unsafe fn tile<S: Simd, P: Product<S>, const R: usize, const C: usize>(task: &LinearTask, block: &Block, run: usize) {
    let rows = (task.rows - run * R).min(R);
    let present = (task.cols - block.col).div_ceil(LANES).min(C);
    let mut sums = [[S::splat(0.0); C]; R];
    if !block.first {
        load::<S, R, C>(task, block, run, rows, present, &mut sums);
    }
    let groups_in_all = task.words.div_ceil(task.group_words);
    let mut x = task.x.add((run * task.words + block.first_group * task.group_words) * R);
    let mut offsets = task.offsets.wrapping_add((run * groups_in_all + block.first_group) * R);
    let mut panels = [block.weights; C];
    for c in 0..C {
        panels[c] = block.weights.add(if c < present { c * block.stride } else { 0 });
    }
    // Bytes into every panel: one counter in a register. Pointers that are kept in memory would be stored in every step, at
    // addresses that loads of the panels must be told apart from.
    let mut at = 0;
    let group_bytes = P::group_bytes(task.group_words);
    for group in 0..block.groups {
        let steps = task.group_words.min(block.words - group * task.group_words) / P::WORDS;
        let target = group + block.ahead.groups;
        let (ahead, stride) = if target < block.groups {
            (block.weights.add(target * group_bytes), block.stride)
        } else {
            let past = (target - block.groups) * block.ahead.group_bytes;
            (block.ahead.next.wrapping_add(past), block.ahead.stride)
        };
        let mut header = [P::header(panels[0].add(at)); C];
        for c in 1..C {
            header[c] = P::header(panels[c].add(at));
        }
        at += P::HEADER;
        let mut partial = [[P::start(sums[0][0], header[0], 0); C]; R];
        for r in 0..R {
            let offset = if P::INTEGER { *offsets.add(r) } else { 0 };
            for c in 0..C {
                partial[r][c] = P::start(sums[r][c], header[c], offset);
            }
        }
        for step in (0..steps).step_by(P::UNROLL) {
            for c in 0..C {
                prefetch(ahead.wrapping_add(c * stride + step * block.ahead.step_bytes));
            }
            for word in 0..P::UNROLL * P::WORDS {
                let (at, part) = (at + word / P::WORDS * P::W_BYTES, word % P::WORDS);
                let mut weights = [P::weights(panels[0].add(at), part); C];
                for c in 1..C {
                    weights[c] = P::weights(panels[c].add(at), part);
                }
                for r in 0..R {
                    let inputs = P::inputs(x.add(word * R + r));
                    for c in 0..C {
                        partial[r][c] = P::mul_add(inputs, weights[c], partial[r][c]);
                    }
                }
            }
            x = x.add(P::UNROLL * P::WORDS * R);
            at += P::UNROLL * P::W_BYTES;
        }
        for r in 0..R {
            for c in 0..C {
                sums[r][c] = P::finish(partial[r][c], header[c], sums[r][c]);
            }
        }
        offsets = offsets.wrapping_add(R);
    }
    store::<S, P, R, C>(task, block, run, rows, present, &sums);
}

/// The sums of the blocks before. Rows and panels that are not there are loaded from the first: a branch around every load
/// would keep the sums out of registers.
#[inline(always)]
unsafe fn load<S: Simd, const R: usize, const C: usize>(
    task: &LinearTask,
    block: &Block,
    run: usize,
    rows: usize,
    present: usize,
    sums: &mut [[S::V; C]; R],
) {
    for r in 0..R {
        let row = run * R + if r < rows { r } else { 0 };
        for c in 0..C {
            let col = block.col + if c < present { c * LANES } else { 0 };
            sums[r][c] = S::load_partial(task.y.add(row * task.y_stride + col), task.cols - col);
        }
    }
}

/// Stores sums; those of the last block scaled and with the bias.
#[inline(always)]
unsafe fn store<S: Simd, P: Product<S>, const R: usize, const C: usize>(
    task: &LinearTask,
    block: &Block,
    run: usize,
    rows: usize,
    present: usize,
    sums: &[[S::V; C]; R],
) {
    for c in 0..C {
        let col = block.col + c * LANES;
        if c >= present {
            continue;
        }
        let scales = if P::COLUMN_SCALED && block.last { S::load(task.col_scales.add(col)) } else { S::splat(1.0) };
        for r in 0..R {
            if r >= rows {
                continue;
            }
            let mut sum = sums[r][c];
            if block.last && P::INTEGER {
                sum = S::mul(sum, S::splat(*task.row_scales.add(run * R + r)));
            }
            if block.last && P::COLUMN_SCALED {
                sum = S::mul(sum, scales);
            }
            if block.last && !task.bias.is_null() {
                sum = S::add(sum, S::load_partial(task.bias.add(col), task.cols - col));
            }
            S::store_partial(task.y.add((run * R + r) * task.y_stride + col), sum, task.cols - col);
        }
    }
}
