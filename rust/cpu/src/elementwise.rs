//! Ops that look at one element, or one pair, at a time.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: pointers are valid for `n` elements, the CPU has the features")]

use rustllm_ops::Activation;

use crate::math;
use crate::simd::{LANES, Simd};

/// `x += y`.
#[inline(always)]
pub(crate) unsafe fn add_assign<S: Simd>(x: *mut f32, y: *const f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let sum = S::add(S::load_partial(x.add(i), n - i), S::load_partial(y.add(i), n - i));
        S::store_partial(x.add(i), sum, n - i);
    }
}

/// `x *= y`.
#[inline(always)]
pub(crate) unsafe fn mul_assign<S: Simd>(x: *mut f32, y: *const f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let product = S::mul(S::load_partial(x.add(i), n - i), S::load_partial(y.add(i), n - i));
        S::store_partial(x.add(i), product, n - i);
    }
}

/// `x += factor * y`.
#[inline(always)]
pub(crate) unsafe fn add_scaled<S: Simd>(x: *mut f32, y: *const f32, factor: f32, n: usize) {
    let factor = S::splat(factor);
    for i in (0..n).step_by(LANES) {
        let sum = S::mul_add(S::load_partial(y.add(i), n - i), factor, S::load_partial(x.add(i), n - i));
        S::store_partial(x.add(i), sum, n - i);
    }
}

/// `x *= factor`.
#[inline(always)]
pub(crate) unsafe fn scale<S: Simd>(x: *mut f32, factor: f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        S::store_partial(x.add(i), S::mul(S::load_partial(x.add(i), n - i), S::splat(factor)), n - i);
    }
}

/// `x = cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) unsafe fn soft_cap<S: Simd>(x: *mut f32, cap: f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        S::store_partial(x.add(i), math::soft_cap::<S>(S::load_partial(x.add(i), n - i), cap), n - i);
    }
}

/// `to = activation(x)`.
#[inline(always)]
pub(crate) unsafe fn activation<S: Simd>(activation: Activation, x: *const f32, to: *mut f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let v = math::activate::<S>(activation, S::load_partial(x.add(i), n - i));
        S::store_partial(to.add(i), v, n - i);
    }
}

/// `to = activation(gate) * up`.
#[inline(always)]
pub(crate) unsafe fn gated_activation<S: Simd>(
    activation: Activation,
    gate: *const f32,
    up: *const f32,
    to: *mut f32,
    n: usize,
) {
    for i in (0..n).step_by(LANES) {
        let v = math::activate::<S>(activation, S::load_partial(gate.add(i), n - i));
        S::store_partial(to.add(i), S::mul(v, S::load_partial(up.add(i), n - i)), n - i);
    }
}

/// `to = (clamp(up) + 1) * g * sigmoid(alpha * g)` where `g` is the gate, at most `limit`.
#[inline(always)]
pub(crate) unsafe fn clamped_swiglu<S: Simd>(
    alpha: f32,
    limit: f32,
    gate: *const f32,
    up: *const f32,
    to: *mut f32,
    n: usize,
) {
    let (alpha, most, least) = (S::splat(alpha), S::splat(limit), S::splat(-limit));
    for i in (0..n).step_by(LANES) {
        let gate = S::min(most, S::load_partial(gate.add(i), n - i));
        let up = S::max(least, S::min(most, S::load_partial(up.add(i), n - i)));
        let glu = S::mul(gate, math::sigmoid::<S>(S::mul(alpha, gate)));
        S::store_partial(to.add(i), S::mul_add(up, glu, glu), n - i);
    }
}

/// Rotates the pairs `(x[i], x[i + half])` of one head.
#[inline(always)]
pub(crate) unsafe fn rotary<S: Simd>(x: *mut f32, cos: *const f32, sin: *const f32, half: usize) {
    for i in (0..half).step_by(LANES) {
        let n = half - i;
        let (a, b) = (S::load_partial(x.add(i), n), S::load_partial(x.add(half + i), n));
        let (cos, sin) = (S::load_partial(cos.add(i), n), S::load_partial(sin.add(i), n));
        let first = S::sub(S::mul(a, cos), S::mul(b, sin));
        let second = S::mul_add(b, cos, S::mul(a, sin));
        S::store_partial(x.add(i), first, n);
        S::store_partial(x.add(half + i), second, n);
    }
}

/// `x = min(max(x, -limit), limit)`.
#[inline(always)]
pub(crate) unsafe fn clamp<S: Simd>(x: *mut f32, limit: f32, n: usize) {
    for i in (0..n).step_by(LANES) {
        let above = S::max(S::load_partial(x.add(i), n - i), S::splat(-limit));
        S::store_partial(x.add(i), S::min(above, S::splat(limit)), n - i);
    }
}
