//! The first largest element of a row, whole or in runs of columns.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: pointers are valid for `n` elements, the CPU has the features")]

use crate::simd::{LANE_INDICES, LANES, Simd};

/// An element and where it stands, as ops leave it in memory: the column is a whole number.
#[derive(Debug, Clone, Copy, PartialEq)]
#[repr(C)]
pub(crate) struct Largest {
    pub(crate) col: f32,
    pub(crate) value: f32,
}

impl Largest {
    /// Elements of float32 that one takes.
    pub(crate) const WIDTH: usize = 2;

    /// The larger of two; this one if neither is, so that the first counts where the other comes later. NaN is larger than
    /// any number.
    #[inline(always)]
    pub(crate) fn or_later(self, later: Self) -> Self {
        let is_larger = later.value > self.value || (later.value.is_nan() && !self.value.is_nan());
        if is_larger { later } else { self }
    }
}

/// Writes the first largest of `n` elements, at least one, of which the first stands in column `first`.
///
/// ```text
///   lane         0    1    2   ...  15
///   vector 0     x    x    x        x       each lane keeps its first largest element and the column of it;
///   vector 1     x    x    x        x       then of the lanes the largest, and of equals the lowest column
/// ```
///
/// Comparisons pass over NaN. A sum that every element times zero enters tells whether there is one (or an infinity): such
/// rows, which a working model has none of, are looked through again, one element after another.
#[inline(always)]
pub(crate) unsafe fn argmax<S: Simd>(x: *const f32, n: usize, first: usize, to: *mut Largest) {
    let at = |i: usize| Largest { col: (first + i) as f32, value: *x.add(i) };
    let whole = n / LANES * LANES;
    let lanes = S::load(LANE_INDICES.as_ptr());
    let (mut values, mut cols, mut poison) = (S::splat(f32::NEG_INFINITY), lanes, S::splat(0.0));
    for i in (0..whole).step_by(LANES) {
        let v = S::load(x.add(i));
        cols = S::select_lt(values, v, S::add(S::splat(i as f32), lanes), cols);
        values = S::select_lt(values, v, v, values);
        poison = S::mul_add(v, S::splat(0.0), poison);
    }
    if S::reduce_add(poison).is_nan() {
        *to = (1..n).fold(at(0), |best, i| best.or_later(at(i)));
        return;
    }
    let (mut lane_values, mut lane_cols) = ([0.0f32; LANES], [0.0f32; LANES]);
    S::store(lane_values.as_mut_ptr(), values);
    S::store(lane_cols.as_mut_ptr(), cols);
    let in_order = |a: Largest, b: Largest| if a.col < b.col { a.or_later(b) } else { b.or_later(a) };
    let of_lane = |lane: usize| Largest { col: first as f32 + lane_cols[lane], value: lane_values[lane] };
    let of_lanes = (1..LANES).map(of_lane).fold(of_lane(0), in_order);
    // Rows shorter than a vector have no lanes to speak of.
    let best = if whole == 0 { at(0) } else { of_lanes };
    *to = (whole..n).fold(best, |best, i| best.or_later(at(i)));
}
