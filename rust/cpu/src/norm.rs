//! Root-mean-square and layer normalization of a row.
//!
//! Sums run over vectors of sixteen columns into four accumulators in turn, which are added as `(0 + 1) + (2 + 3)`: an
//! order that the width of the row alone decides.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: pointers are valid for `n` elements, the CPU has the features")]

use crate::simd::{LANES, Simd};

/// `Σ f(x[i])`; `f` sees zeros past the end, and what it makes of them is dropped.
#[inline(always)]
unsafe fn sum_of<S: Simd>(x: *const f32, n: usize, f: impl Fn(S::V) -> S::V) -> f32 {
    let mut sums = [S::splat(0.0); 4];
    let mut i = 0;
    while i + 4 * LANES <= n {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = S::add(*sum, f(S::load(x.add(i + j * LANES))));
        }
        i += 4 * LANES;
    }
    for sum in &mut sums {
        if i < n {
            let part = f(S::load_partial(x.add(i), n - i));
            *sum = S::add(*sum, S::select_range(0, n - i, part, S::splat(0.0)));
            i += LANES;
        }
    }
    S::reduce_add(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])))
}

/// `to[i] = f(i, x[i])`, sixteen at a time.
#[inline(always)]
unsafe fn map<S: Simd>(x: *const f32, to: *mut f32, n: usize, f: impl Fn(usize, S::V) -> S::V) {
    let mut i = 0;
    while i < n {
        let v = f(i, S::load_partial(x.add(i), n - i));
        S::store_partial(to.add(i), v, n - i);
        i += LANES;
    }
}

/// `to = x / sqrt(mean(x²) + eps) * weight`.
#[inline(always)]
pub(crate) unsafe fn rms_norm<S: Simd>(x: *const f32, weight: *const f32, to: *mut f32, n: usize, eps: f32) {
    let squares = sum_of::<S>(x, n, |v| S::mul(v, v));
    let inverse = S::splat(1.0 / (squares / n as f32 + eps).sqrt());
    map::<S>(x, to, n, |i, v| S::mul(S::mul(v, inverse), S::load_partial(weight.add(i), n - i)));
}

/// `to = (x - mean) / sqrt(variance + eps) * weight + bias`; no bias if null.
#[inline(always)]
pub(crate) unsafe fn layer_norm<S: Simd>(
    x: *const f32,
    weight: *const f32,
    bias: *const f32,
    to: *mut f32,
    n: usize,
    eps: f32,
) {
    let mean = S::splat(sum_of::<S>(x, n, |v| v) / n as f32);
    let variance = sum_of::<S>(x, n, |v| {
        let centred = S::sub(v, mean);
        S::mul(centred, centred)
    }) / n as f32;
    let inverse = S::splat(1.0 / (variance + eps).sqrt());
    map::<S>(x, to, n, |i, v| {
        let scaled = S::mul(S::mul(S::sub(v, mean), inverse), S::load_partial(weight.add(i), n - i));
        if bias.is_null() { scaled } else { S::add(scaled, S::load_partial(bias.add(i), n - i)) }
    });
}
