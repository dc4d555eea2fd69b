//! Activations in the form products take them: rounded or quantized, and packed run by run.
//!
//! ```text
//!   x, rows of float32          a run of R rows                       padded with zeros to whole groups of words,
//!   row 0  a0 a1 a2 ...         word 0: a0 b0 c0 ... (R words)        the last run to R rows
//!   row 1  b0 b1 b2 ...   ──►   word 1: a1 b1 c1 ...
//!   row 2  c0 c1 c2 ...         ...
//! ```
#![allow(clippy::needless_range_loop, reason = "vectors are indexed by row")]
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `InputsTask`'s")]

use rustllm_ops::quantize::TINY;

use crate::simd::{LANES, Simd};

/// One run of rows.
///
/// Safety: pointers are valid for what the sizes say; what is written is this task's alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InputsTask {
    /// The first row.
    pub(crate) x: *const f32,
    /// Elements from row to row.
    pub(crate) x_stride: usize,
    /// Elements of a row.
    pub(crate) cols: usize,
    /// Rows there are, at most `tile_rows`.
    pub(crate) rows: usize,
    /// Rows of the run.
    pub(crate) tile_rows: usize,
    /// Words of a row, whole groups.
    pub(crate) words: usize,
    /// `words * tile_rows` words.
    pub(crate) to: *mut u32,
    /// `tile_rows` scales; of int8 only.
    pub(crate) scales: *mut f32,
    /// `[group][tile_rows]`: minus `zero` times the sum of the group's codes; of int8 only.
    pub(crate) offsets: *mut i32,
    /// Words of a group.
    pub(crate) group_words: usize,
    /// The code of the weights that stands for zero.
    pub(crate) zero: i32,
}

/// What a word is made of.
pub(crate) trait InputForm<S: Simd> {
    /// Elements of a word.
    const ELEMENTS: usize;
    /// Whether rows have scales.
    const SCALED: bool = false;

    /// Sixteen words of the `n` elements from `from` on, then zeros. `inverse` is one over the row's scale.
    unsafe fn words(from: *const f32, n: usize, inverse: f32) -> S::V;
}

/// Elements as they are.
pub(crate) struct PlainF32;
/// Elements rounded to half, kept as float32.
pub(crate) struct RoundedF16;
/// Elements rounded to bfloat16, kept as float32.
pub(crate) struct RoundedBf16;
/// Pairs of bfloat16.
#[cfg(target_arch = "x86_64")]
pub(crate) struct PairsBf16;
/// Four int8.
pub(crate) struct Quantized;

impl<S: Simd> InputForm<S> for PlainF32 {
    const ELEMENTS: usize = 1;
    #[inline(always)]
    unsafe fn words(from: *const f32, n: usize, _inverse: f32) -> S::V {
        S::load_partial(from, n)
    }
}

impl<S: Simd> InputForm<S> for RoundedF16 {
    const ELEMENTS: usize = 1;
    #[inline(always)]
    unsafe fn words(from: *const f32, n: usize, _inverse: f32) -> S::V {
        S::round_f16(S::load_partial(from, n))
    }
}

impl<S: Simd> InputForm<S> for RoundedBf16 {
    const ELEMENTS: usize = 1;
    #[inline(always)]
    unsafe fn words(from: *const f32, n: usize, _inverse: f32) -> S::V {
        S::round_bf16(S::load_partial(from, n))
    }
}

#[cfg(target_arch = "x86_64")]
impl<S: Simd> InputForm<S> for PairsBf16 {
    const ELEMENTS: usize = 2;
    #[inline(always)]
    unsafe fn words(from: *const f32, n: usize, _inverse: f32) -> S::V {
        let mut bits = [0u16; 2 * LANES];
        for half in 0..2 {
            let at = half * LANES;
            if at < n {
                let mut lanes = [0.0f32; LANES];
                S::store(lanes.as_mut_ptr(), S::round_bf16(S::load_partial(from.add(at), n - at)));
                for i in 0..LANES {
                    bits[at + i] = (lanes[i].to_bits() >> 16) as u16;
                }
            }
        }
        S::load(bits.as_ptr().cast())
    }
}

impl<S: Simd> InputForm<S> for Quantized {
    const ELEMENTS: usize = 4;
    const SCALED: bool = true;
    #[inline(always)]
    unsafe fn words(from: *const f32, n: usize, inverse: f32) -> S::V {
        let inverse = S::splat(inverse);
        let mut quarters = [S::splat(0.0); 4];
        for i in 0..4 {
            let at = (i * LANES).min(n);
            quarters[i] = S::mul(S::load_partial(from.add(at), n - at), inverse);
        }
        S::as_f32(S::pack_i8(quarters))
    }
}

/// Packs a run.
#[inline(always)]
pub(crate) unsafe fn pack_inputs<S: Simd, F: InputForm<S>>(task: &InputsTask) {
    const MOST: usize = LANES;
    debug_assert!(task.tile_rows <= MOST);
    let mut inverses = [0.0f32; MOST];
    if F::SCALED {
        for row in 0..task.tile_rows {
            let scale = if row < task.rows { row_scale::<S>(task, row, &mut inverses[row]) } else { 0.0 };
            *task.scales.add(row) = scale;
        }
        task.offsets.write_bytes(0, task.words.div_ceil(task.group_words) * task.tile_rows);
    }
    let end = task.words * task.tile_rows;
    // Those of rows that are not there stay zero.
    let mut rows = [S::splat(0.0); LANES];
    for word in (0..task.words).step_by(LANES) {
        let element = word * F::ELEMENTS;
        for row in 0..task.rows {
            let n = task.cols.saturating_sub(element);
            let from = task.x.add(row * task.x_stride + element.min(task.cols));
            rows[row] = F::words(from, n, inverses[row]);
            if F::SCALED {
                add_codes::<S>(task, word, row, rows[row]);
            }
        }
        let to = task.to.add(word * task.tile_rows).cast::<f32>();
        if task.tile_rows == 1 {
            S::store_partial(to, rows[0], task.words - word);
            continue;
        }
        let columns = S::transpose(rows);
        for i in 0..LANES.min(task.words - word) {
            // A whole vector reaches into words that are written next, but must not leave the run.
            let at = i * task.tile_rows;
            if word * task.tile_rows + at + LANES <= end {
                S::store(to.add(at), columns[i]);
            } else {
                S::store_partial(to.add(at), columns[i], task.tile_rows);
            }
        }
    }
}

/// The scale of a row, and one over it: see [`rustllm_ops::quantize::int8_row`].
#[inline(always)]
unsafe fn row_scale<S: Simd>(task: &InputsTask, row: usize, inverse: &mut f32) -> f32 {
    let from = task.x.add(row * task.x_stride);
    let zero = S::splat(0.0);
    let (mut largest, mut poison) = (zero, zero);
    for i in (0..task.cols).step_by(LANES) {
        let v = S::load_partial(from.add(i), task.cols - i);
        largest = S::max(S::max(v, S::sub(zero, v)), largest);
        // Zero, but NaN for infinities and NaN.
        poison = S::mul_add(v, zero, poison);
    }
    let largest = S::reduce_max(largest);
    *inverse = if largest < TINY { 0.0 } else { 127.0 / largest };
    largest / 127.0 + S::reduce_add(poison)
}

/// Takes `zero` times the sums of a row's sixteen words off its groups' offsets. Groups are whole eights of words.
#[inline(always)]
unsafe fn add_codes<S: Simd>(task: &InputsTask, word: usize, row: usize, codes: S::V) {
    let mut sums = [0i32; LANES];
    let ones = S::splat_i32(0x0101_0101);
    S::store_words(sums.as_mut_ptr().cast(), S::dot(ones, S::as_i32(codes), S::splat_i32(0)));
    for (i, eight) in sums.as_chunks::<8>().0.iter().enumerate() {
        let word = word + 8 * i;
        if word < task.words {
            let offset = task.offsets.add(word / task.group_words * task.tile_rows + row);
            *offset = (*offset).wrapping_sub(task.zero.wrapping_mul(eight.iter().sum()));
        }
    }
}
