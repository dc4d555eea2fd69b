//! The product of activations and packed weights, for any number of rows.
//!
//! ```text
//!                      weights: C panels of 16 outputs
//!                     ┌──────┬──────┬──────┬──────┐
//!              k ──►  │ w[k] │ w[k] │ w[k] │ w[k] │    C vectors a step, read once for R rows
//!                     └──────┴──────┴──────┴──────┘
//!   x[row 0][k] ───►  │  +=  │  +=  │  +=  │  +=  │
//!   x[row 1][k] ───►  │  +=  │  +=  │  +=  │  +=  │    R x C accumulators stay in registers
//!     ...
//!   x[row 5][k] ───►  │  +=  │  +=  │  +=  │  +=  │    AVX-512: 6 x 4 of 32 registers
//! ```
//!
//! Every output is one chain of fused multiply-adds over `k` in order, whichever tile computes it; a tile that stops at the
//! end of a block of `k` stores its partial sums and loads them for the next one, which changes no bit. That is why a row's
//! result does not depend on the rows beside it, nor on how the work was cut up.
//!
//! With many rows, a block of `k` of 16-bit panels is widened to float32 once and used from the second-level cache by all.
#![allow(clippy::needless_range_loop, reason = "tiles of registers are indexed by row and panel")]
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `LinearTask`'s")]

use crate::simd::{LANES, Simd};

/// A block of `k` of a share of a linear layer: some rows, some panels.
///
/// Safety: pointers are valid for what the sizes say; `x` is padded with zeros to a whole step; `y`'s rows and columns
/// are this task's alone.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LinearTask {
    /// Activations in the form the product takes them.
    pub(crate) x: *const u8,
    /// Bytes from row to row of `x`.
    pub(crate) x_stride: usize,
    /// Rows of `x` and `y`.
    pub(crate) rows: usize,
    /// The task's first panel.
    pub(crate) weights: *const u8,
    /// Bytes from panel to panel.
    pub(crate) panel_bytes: usize,
    /// Length of the sums.
    pub(crate) k: usize,
    /// The first row's first output.
    pub(crate) y: *mut f32,
    /// Elements from row to row of `y`.
    pub(crate) y_stride: usize,
    /// Outputs a row.
    pub(crate) cols: usize,
    /// Whether sums start here; else `y` holds those of the blocks before.
    pub(crate) first: bool,
    /// Added to the sums if this is the last block; null for none.
    pub(crate) bias: *const f32,
}

/// How weights and activations are read and multiplied: in steps of `STEP` elements of `k`, each in `PARTS`.
pub(crate) trait Product<S: Simd> {
    /// Elements of `k` a step takes.
    const STEP: usize;
    /// Vectors a step is computed in, in order.
    const PARTS: usize;
    /// Bytes of an activation.
    const X_BYTES: usize;
    /// Bytes of a weight.
    const W_BYTES: usize;
    /// A part of a panel's step, in registers.
    type Weights: Copy;
    /// A part of a row's step, in all lanes.
    type Inputs: Copy;

    unsafe fn weights(from: *const u8, part: usize) -> Self::Weights;
    unsafe fn inputs(from: *const u8, part: usize) -> Self::Inputs;
    unsafe fn mul_add(x: Self::Inputs, w: Self::Weights, sum: S::V) -> S::V;
}

/// Float32 weights.
pub(crate) struct F32;
/// Half weights, activations rounded to half and kept as float32.
pub(crate) struct F16;
/// bfloat16 weights, activations rounded to bfloat16 and kept as float32.
pub(crate) struct Bf16;

/// The products of float32 vectors differ in how weights become one.
macro_rules! float32_product {
    ($name:ident, $step:literal, $bytes:literal, |$from:ident, $part:ident| $load:expr) => {
        impl<S: Simd> Product<S> for $name {
            const STEP: usize = $step;
            const PARTS: usize = $step;
            const X_BYTES: usize = 4;
            const W_BYTES: usize = $bytes;
            type Weights = S::V;
            type Inputs = S::V;

            #[inline(always)]
            unsafe fn weights($from: *const u8, $part: usize) -> S::V {
                $load
            }
            #[inline(always)]
            unsafe fn inputs(from: *const u8, part: usize) -> S::V {
                S::splat(*from.cast::<f32>().add(part))
            }
            #[inline(always)]
            unsafe fn mul_add(x: S::V, w: S::V, sum: S::V) -> S::V {
                S::mul_add(x, w, sum)
            }
        }
    };
}

float32_product!(F32, 1, 4, |from, _part| S::load(from.cast()));
float32_product!(F16, 1, 2, |from, _part| S::load_f16(from.cast()));
float32_product!(Bf16, 2, 2, |from, part| {
    if part == 0 { S::load_bf16_even(from.cast()) } else { S::load_bf16_odd(from.cast()) }
});

/// bfloat16 weights and activations through `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Bf16Dot;

#[cfg(target_arch = "x86_64")]
impl Product<crate::simd::Avx512> for Bf16Dot {
    const STEP: usize = 2;
    const PARTS: usize = 1;
    const X_BYTES: usize = 2;
    const W_BYTES: usize = 2;
    type Weights = std::arch::x86_64::__m512i;
    type Inputs = std::arch::x86_64::__m512i;

    #[inline(always)]
    unsafe fn weights(from: *const u8, _part: usize) -> Self::Weights {
        std::arch::x86_64::_mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn inputs(from: *const u8, _part: usize) -> Self::Inputs {
        std::arch::x86_64::_mm512_set1_epi32(from.cast::<i32>().read_unaligned())
    }
    #[inline(always)]
    unsafe fn mul_add(x: Self::Inputs, w: Self::Weights, sum: std::arch::x86_64::__m512) -> std::arch::x86_64::__m512 {
        use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps};
        let as_pairs = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
        _mm512_dpbf16_ps(sum, as_pairs(x), as_pairs(w))
    }
}

/// Computes a task: tiles over rows in nearly equal runs, each over all panels.
#[inline(always)]
pub(crate) unsafe fn linear<S: Simd, P: Product<S>>(task: &LinearTask) {
    let runs = task.rows.div_ceil(S::TILE_ROWS);
    let mut row = 0;
    for run in 0..runs {
        let rows = (task.rows + run) / runs;
        let widest = S::TILE_PANELS[rows];
        let mut col = 0;
        while col < task.cols {
            let panels = if (task.cols - col).div_ceil(LANES) >= widest { widest } else { 1 };
            macro_rules! dispatch {
                ($($rows:literal: $($panels:literal)*;)*) => {
                    match (rows, panels) {
                        $($(
                            ($rows, $panels) if const {
                                $rows <= S::TILE_ROWS && ($panels == 1 || $panels == S::TILE_PANELS[$rows])
                            } => tile::<S, P, $rows, $panels>(task, row, col),
                        )*)*
                        _ => unreachable!("TILE_ROWS and TILE_PANELS name the tiles there are"),
                    }
                };
            }
            dispatch!(1: 1 2 4; 2: 1 2 4; 3: 1 2 4; 4: 1 2 4; 5: 1 2 4; 6: 1 2 4;);
            col += panels * LANES;
        }
        row += rows;
    }
}

/// Widens a block of `k` of `panels` panels to float32 panels of a whole number of steps, one after another.
#[inline(always)]
pub(crate) unsafe fn widen<S: Simd, P: Product<S, Weights = S::V>>(
    weights: *const u8,
    panel_bytes: usize,
    panels: usize,
    k: usize,
    mut to: *mut f32,
) {
    for panel in 0..panels {
        let mut from = weights.add(panel * panel_bytes);
        for _ in 0..k.div_ceil(P::STEP) {
            for part in 0..P::PARTS {
                S::store(to, P::weights(from, part));
                to = to.add(LANES);
            }
            from = from.add(P::STEP * LANES * P::W_BYTES);
        }
    }
}

/// `R` rows of `C` panels.
#[inline(always)]
unsafe fn tile<S: Simd, P: Product<S>, const R: usize, const C: usize>(task: &LinearTask, row: usize, col: usize) {
    let y = task.y.add(row * task.y_stride + col);
    // Columns of the last panel of this tile.
    let tail = (task.cols - col - (C - 1) * LANES).min(LANES);
    let mut sums = [[S::splat(0.0); C]; R];
    if !task.first {
        for r in 0..R {
            for c in 0..C {
                let from = y.add(r * task.y_stride + c * LANES);
                sums[r][c] = if c + 1 < C || tail == LANES { S::load(from) } else { S::load_partial(from, tail) };
            }
        }
    }
    let mut x = task.x.add(row * task.x_stride);
    let mut w = task.weights.add(col / LANES * task.panel_bytes);
    for _ in 0..task.k.div_ceil(P::STEP) {
        for part in 0..P::PARTS {
            for c in 0..C {
                let weights = P::weights(w.add(c * task.panel_bytes), part);
                for r in 0..R {
                    sums[r][c] = P::mul_add(P::inputs(x.add(r * task.x_stride), part), weights, sums[r][c]);
                }
            }
        }
        x = x.add(P::STEP * P::X_BYTES);
        w = w.add(P::STEP * LANES * P::W_BYTES);
    }
    for r in 0..R {
        for c in 0..C {
            let whole = c + 1 < C || tail == LANES;
            let mut sum = sums[r][c];
            if !task.bias.is_null() {
                let bias = task.bias.add(col + c * LANES);
                sum = S::add(sum, if whole { S::load(bias) } else { S::load_partial(bias, tail) });
            }
            let to = y.add(r * task.y_stride + c * LANES);
            if whole { S::store(to, sum) } else { S::store_partial(to, sum, tail) }
        }
    }
}

/// Rounds `n` activations from `x` to half, kept as float32 in `to`, and zeros up to `padded`.
#[inline(always)]
pub(crate) unsafe fn round_f16<S: Simd>(x: *const f32, to: *mut f32, n: usize, padded: usize) {
    let mut k = 0;
    while k < padded {
        let v = S::round_f16(S::load_partial(x.add(k.min(n)), n.saturating_sub(k)));
        S::store_partial(to.add(k), v, padded - k);
        k += LANES;
    }
}

/// As [`round_f16`], to bfloat16.
#[inline(always)]
pub(crate) unsafe fn round_bf16<S: Simd>(x: *const f32, to: *mut f32, n: usize, padded: usize) {
    let mut k = 0;
    while k < padded {
        let v = S::round_bf16(S::load_partial(x.add(k.min(n)), n.saturating_sub(k)));
        S::store_partial(to.add(k), v, padded - k);
        k += LANES;
    }
}

/// As [`round_bf16`], stored as the sixteen bits.
#[inline(always)]
pub(crate) unsafe fn narrow_bf16<S: Simd>(x: *const f32, to: *mut u16, n: usize, padded: usize) {
    let mut k = 0;
    while k < padded {
        let mut lanes = [0.0f32; LANES];
        S::store(lanes.as_mut_ptr(), S::round_bf16(S::load_partial(x.add(k.min(n)), n.saturating_sub(k))));
        for (i, lane) in lanes.iter().take(padded - k).enumerate() {
            *to.add(k + i) = (lane.to_bits() >> 16) as u16;
        }
        k += LANES;
    }
}
