//! Sixteen lanes in plain Rust: any machine, and the meaning of the others.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every function is the trait's")]

use half::{bf16, f16};

use super::{LANES, Simd, Tiles};

/// Plain Rust.
#[derive(Clone, Copy)]
pub(crate) struct Scalar;

type V = [f32; LANES];
type I = [i32; LANES];

#[inline(always)]
fn map(a: V, f: impl Fn(f32) -> f32) -> V {
    a.map(f)
}

#[inline(always)]
fn zip(a: V, b: V, f: impl Fn(f32, f32) -> f32) -> V {
    std::array::from_fn(|i| f(a[i], b[i]))
}

#[inline(always)]
fn reduce(mut v: V, f: impl Fn(f32, f32) -> f32) -> f32 {
    for width in [8, 4, 2, 1] {
        for i in 0..width {
            v[i] = f(v[i], v[i + width]);
        }
    }
    v[0]
}

#[inline(always)]
fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

impl Simd for Scalar {
    type V = V;
    type I = I;
    const TILES: Tiles = Tiles { panels: [0, 1, 1, 0, 0, 0, 0, 0, 0], many: 2 };
    const QUERIES: usize = 2;
    const ACCUMULATORS: usize = 2;

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        from.cast::<V>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        to.cast::<V>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> V {
        from.cast::<[u16; LANES]>().read_unaligned().map(|bits| f16::from_bits(bits).to_f32_const())
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> V {
        from.cast::<[u16; LANES]>().read_unaligned().map(|bits| f32::from_bits(u32::from(bits) << 16))
    }
    #[inline(always)]
    unsafe fn load_bf16_even(from: *const u16) -> V {
        from.cast::<[[u16; 2]; LANES]>().read_unaligned().map(|pair| f32::from_bits(u32::from(pair[0]) << 16))
    }
    #[inline(always)]
    unsafe fn load_bf16_odd(from: *const u16) -> V {
        from.cast::<[[u16; 2]; LANES]>().read_unaligned().map(|pair| f32::from_bits(u32::from(pair[1]) << 16))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> V {
        from.cast::<[i8; LANES]>().read_unaligned().map(f32::from)
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |a, b| a / b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, c: V) -> V {
        std::array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, larger)
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    unsafe fn select_lt(a: V, b: V, x: V, y: V) -> V {
        std::array::from_fn(|i| if a[i] < b[i] { x[i] } else { y[i] })
    }
    #[inline(always)]
    unsafe fn exp2_shifted(v: V) -> V {
        map(v, |v| f32::from_bits((v.to_bits() << 23).wrapping_add(1.0f32.to_bits())))
    }
    #[inline(always)]
    unsafe fn round_f16(v: V) -> V {
        map(v, |v| f16::from_f32_const(v).to_f32_const())
    }
    #[inline(always)]
    unsafe fn round_bf16(v: V) -> V {
        map(v, |v| bf16::from_f32(v).to_f32())
    }
    #[inline(always)]
    unsafe fn reduce_add(v: V) -> f32 {
        reduce(v, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn reduce_max(v: V) -> f32 {
        reduce(v, larger)
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> I {
        [value; LANES]
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> I {
        from.cast::<I>().read_unaligned()
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: I) {
        to.cast::<I>().write_unaligned(v);
    }
    #[inline(always)]
    unsafe fn load_low_nibbles(from: *const u8) -> I {
        Self::load_words(from).map(|word| word & 0x0f0f_0f0f)
    }
    #[inline(always)]
    unsafe fn load_high_nibbles(from: *const u8) -> I {
        Self::load_words(from).map(|word| word >> 4 & 0x0f0f_0f0f)
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> I {
        from.cast::<[u8; LANES]>().read_unaligned().map(i32::from)
    }
    #[inline(always)]
    unsafe fn mul_i32(a: I, b: I) -> I {
        std::array::from_fn(|i| a[i].wrapping_mul(b[i]))
    }
    #[inline(always)]
    unsafe fn to_f32(v: I) -> V {
        v.map(|v| v as f32)
    }
    #[inline(always)]
    unsafe fn dot(w: I, x: I, sum: I) -> I {
        std::array::from_fn(|i| {
            let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
            (0..4).fold(sum[i], |sum, j| sum.wrapping_add(i32::from(w[j]) * i32::from(x[j] as i8)))
        })
    }
    #[inline(always)]
    unsafe fn as_f32(v: I) -> V {
        v.map(|v| f32::from_bits(v as u32))
    }
    #[inline(always)]
    unsafe fn as_i32(v: V) -> I {
        v.map(|v| v.to_bits() as i32)
    }
}
