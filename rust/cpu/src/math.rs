//! Exponential, sigmoid and the normal distribution function of sixteen lanes, written once for every instruction set.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every function is that of `Simd`")]

use rustllm_ops::Activation;

use crate::simd::Simd;

/// `c[0] + c[1] x + c[2] x² + ...`.
#[inline(always)]
unsafe fn polynomial<S: Simd, const N: usize>(x: S::V, c: [f32; N]) -> S::V {
    let mut sum = S::splat(c[N - 1]);
    for i in (0..N - 1).rev() {
        sum = S::mul_add(sum, x, S::splat(c[i]));
    }
    sum
}

/// `e^x` within 2 units in the last place; 0 below -87.3, at most 2.4e38. `e^0` is 1 exactly, NaN stays NaN.
#[inline(always)]
pub(crate) unsafe fn exp<S: Simd>(x: S::V) -> S::V {
    const LOW: f32 = -87.336_54;
    const HIGH: f32 = 88.376_26;
    // 1.5 * 2^23: adding it rounds to an integer, whose bits end up lowest.
    const SHIFT: f32 = 12_582_912.0;
    let (low, shift) = (S::splat(LOW), S::splat(SHIFT));
    let clamped = S::min(S::splat(HIGH), S::max(low, x));
    let shifted = S::mul_add(clamped, S::splat(std::f32::consts::LOG2_E), shift);
    let n = S::sub(shifted, shift);
    // ln 2 in two parts, the first exact in few bits: n * ln 2 is subtracted without rounding error.
    let r = S::mul_add(n, S::splat(-0.693_359_4), clamped);
    let r = S::mul_add(n, S::splat(2.121_944_4e-4), r);
    let p = polynomial::<S, 6>(r, [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_199_9e-3, 1.987_569_1e-4]);
    let p = S::add(S::mul_add(S::mul(r, r), p, r), S::splat(1.0));
    S::select_lt(x, low, S::splat(0.0), S::mul(p, S::exp2_shifted(shifted)))
}

/// `1 / (1 + e^-x)`.
#[inline(always)]
pub(crate) unsafe fn sigmoid<S: Simd>(x: S::V) -> S::V {
    let one = S::splat(1.0);
    S::div(one, S::add(one, exp::<S>(S::sub(S::splat(0.0), x))))
}

/// The standard normal distribution function, `erfc(-x / sqrt(2)) / 2`, within 2e-7.
#[inline(always)]
unsafe fn normal_cdf<S: Simd>(x: S::V) -> S::V {
    let (zero, one) = (S::splat(0.0), S::splat(1.0));
    let z = S::mul(S::max(S::sub(zero, x), x), S::splat(std::f32::consts::FRAC_1_SQRT_2));
    // erfc(z) = t P(t) e^(-z²) with t = 1 / (1 + z / 2); P is a least-squares fit of the relative error, 5e-8.
    let t = S::div(one, S::mul_add(S::splat(0.5), z, one));
    let p = polynomial::<S, 9>(
        t,
        [
            0.282_081_9,
            0.282_462_24,
            0.242_415_96,
            0.205_620_2,
            -0.034_032_714,
            0.289_461_55,
            -0.497_678_13,
            0.289_865_3,
            -0.060_196_37,
        ],
    );
    let tail = S::mul(S::mul(S::mul(t, p), exp::<S>(S::sub(zero, S::mul(z, z)))), S::splat(0.5));
    S::select_lt(x, zero, tail, S::sub(one, tail))
}

/// The hyperbolic tangent within 4 units in the last place.
#[inline(always)]
unsafe fn tanh<S: Simd>(x: S::V) -> S::V {
    let (zero, one) = (S::splat(0.0), S::splat(1.0));
    let square = S::mul(x, x);
    // Near zero, where the difference below would cancel: a least-squares fit of the relative error, 4e-9.
    let p = polynomial::<S, 5>(square, [-0.333_332_84, 0.133_314_91, -0.053_743_485, 0.020_650_55, -0.005_717_005_7]);
    let small = S::mul_add(S::mul(x, square), p, x);
    let magnitude = S::max(S::sub(zero, x), x);
    let large = S::sub(one, S::div(S::splat(2.0), S::add(exp::<S>(S::add(magnitude, magnitude)), one)));
    let large = S::select_lt(x, zero, S::sub(zero, large), large);
    S::select_lt(magnitude, S::splat(0.625), small, large)
}

/// `cap * tanh(x / cap)`.
#[inline(always)]
pub(crate) unsafe fn soft_cap<S: Simd>(x: S::V, cap: f32) -> S::V {
    let cap = S::splat(cap);
    S::mul(cap, tanh::<S>(S::div(x, cap)))
}

/// `activation(x)`.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(activation: Activation, x: S::V) -> S::V {
    match activation {
        Activation::Silu => S::mul(x, sigmoid::<S>(x)),
        Activation::Gelu => S::mul(x, normal_cdf::<S>(x)),
        Activation::GeluTanh => {
            // (1 + tanh u) / 2 is sigmoid(2 u), u = sqrt(2 / pi) (x + 0.044715 x³).
            let inner = S::mul_add(S::splat(0.044_715), S::mul(x, x), S::splat(1.0));
            S::mul(x, sigmoid::<S>(S::mul(S::mul(x, S::splat(1.595_769)), inner)))
        }
        Activation::Relu => S::max(S::splat(0.0), x),
        Activation::ReluSquared => {
            let positive = S::max(S::splat(0.0), x);
            S::mul(positive, positive)
        }
        // 2 sigmoid(2 x) - 1.
        Activation::Tanh => S::mul_add(S::splat(2.0), sigmoid::<S>(S::add(x, x)), S::splat(-1.0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{LANES, Scalar};

    fn each(x: f32, f: unsafe fn([f32; LANES]) -> [f32; LANES]) -> f32 {
        // SAFETY: plain Rust runs anywhere.
        unsafe { f([x; LANES])[3] }
    }

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        let mut x = -87.3f32;
        while x < 88.3 {
            let (got, want) = (each(x, exp::<Scalar>), f64::from(x).exp());
            assert!((f64::from(got) - want).abs() <= 2.0 * f64::from(f32::EPSILON) / 2.0 * 2.0 * want, "{x}: {got}");
            x += 0.013_7;
        }
        assert_eq!(each(0.0, exp::<Scalar>), 1.0);
        assert_eq!(each(f32::NEG_INFINITY, exp::<Scalar>), 0.0);
        assert_eq!(each(-100.0, exp::<Scalar>), 0.0);
        assert!(each(1000.0, exp::<Scalar>) > 2e38);
        assert!(each(f32::NAN, exp::<Scalar>).is_nan());
    }

    #[test]
    fn the_normal_distribution_function_has_its_known_values() {
        let known = [
            (0.0, 0.5),
            (1.0, 0.841_344_746_068_543),
            (-1.0, 0.158_655_253_931_457),
            (2.5, 0.993_790_334_674_224),
            (-5.0, 2.866_515_719e-7),
        ];
        for (x, want) in known {
            let got = f64::from(each(x, normal_cdf::<Scalar>));
            assert!((got - want).abs() < 2e-7 && (got / want - 1.0).abs() < 2e-6, "{x}: {got}, {want}");
        }
        assert_eq!(each(40.0, normal_cdf::<Scalar>), 1.0);
        assert_eq!(each(-40.0, normal_cdf::<Scalar>), 0.0);
    }

    #[test]
    fn tanh_is_within_four_units_in_the_last_place() {
        let mut x = -10.0f32;
        while x < 10.0 {
            let (got, want) = (f64::from(each(x, tanh::<Scalar>)), f64::from(x).tanh());
            assert!((got / want - 1.0).abs() <= 4.0 * f64::from(f32::EPSILON) / 2.0, "{x}: {got}");
            x += 0.001_7;
        }
        assert_eq!(each(0.0, tanh::<Scalar>), 0.0);
        assert_eq!((each(f32::INFINITY, tanh::<Scalar>), each(-1e9, tanh::<Scalar>)), (1.0, -1.0));
        assert!(each(f32::NAN, tanh::<Scalar>).is_nan());
    }

    #[test]
    fn activations_keep_nan() {
        for activation in Activation::ALL {
            // SAFETY: plain Rust runs anywhere.
            let got = unsafe { activate::<Scalar>(activation, [f32::NAN; LANES]) };
            assert!(got[0].is_nan(), "{activation:?}");
        }
    }
}
