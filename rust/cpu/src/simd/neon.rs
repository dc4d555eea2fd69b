//! Sixteen lanes in four 128-bit registers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every function is the trait's")]

use std::arch::aarch64::*;
use std::arch::asm;

use super::{Simd, Tiles};

/// Advanced SIMD.
#[derive(Clone, Copy)]
pub(crate) struct Neon;

/// Lanes 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(crate) struct V([float32x4_t; 4]);

/// Words 0 to 3, 4 to 7, 8 to 11 and 12 to 15.
#[derive(Clone, Copy)]
pub(crate) struct I([int32x4_t; 4]);

#[inline(always)]
unsafe fn dot(w: int32x4_t, x: int32x4_t, sum: int32x4_t) -> int32x4_t {
    // Bytes 0 and 2, then 1 and 3, as pairs of 16 bits.
    let (w, x) = (vreinterpretq_u16_s32(w), vreinterpretq_s16_s32(x));
    let even = vreinterpretq_s16_u16(vandq_u16(w, vdupq_n_u16(0xff)));
    let odd = vreinterpretq_s16_u16(vshrq_n_u16::<8>(w));
    let (x_even, x_odd) = (vshrq_n_s16::<8>(vshlq_n_s16::<8>(x)), vshrq_n_s16::<8>(x));
    let low = vmull_s16(vget_low_s16(even), vget_low_s16(x_even));
    let low = vmlal_s16(low, vget_low_s16(odd), vget_low_s16(x_odd));
    let high = vmlal_high_s16(vmull_high_s16(even, x_even), odd, x_odd);
    vaddq_s32(sum, vpaddq_s32(low, high))
}

#[inline(always)]
unsafe fn zip(a: V, b: V, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> V {
    V([f(a.0[0], b.0[0]), f(a.0[1], b.0[1]), f(a.0[2], b.0[2]), f(a.0[3], b.0[3])])
}

#[inline(always)]
unsafe fn map(a: V, f: impl Fn(float32x4_t) -> float32x4_t) -> V {
    V(a.0.map(f))
}

/// Four halves, widened. Through assembly: the type of half vectors is not stable Rust.
#[inline(always)]
unsafe fn widen_f16(bits: uint16x4_t) -> float32x4_t {
    let wide: float32x4_t;
    asm!("fcvtl {0:v}.4s, {1:v}.4h", out(vreg) wide, in(vreg) bits, options(pure, nomem, nostack));
    wide
}

#[inline(always)]
unsafe fn narrow_f16(v: float32x4_t) -> uint16x4_t {
    let bits: uint16x4_t;
    asm!("fcvtn {0:v}.4h, {1:v}.4s", out(vreg) bits, in(vreg) v, options(pure, nomem, nostack));
    bits
}

#[inline(always)]
unsafe fn widen_bf16(bits: uint16x4_t) -> float32x4_t {
    vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(bits)))
}

#[inline(always)]
unsafe fn round_bf16(v: float32x4_t) -> float32x4_t {
    let bits = vreinterpretq_u32_f32(v);
    let odd = vandq_u32(vshrq_n_u32::<16>(bits), vdupq_n_u32(1));
    let rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
    // A NaN whose payload is in the low half would round to infinity.
    let quiet = vorrq_u32(bits, vdupq_n_u32(0x0040_0000));
    let result = vbslq_u32(vceqq_f32(v, v), rounded, quiet);
    vreinterpretq_f32_u32(vandq_u32(result, vdupq_n_u32(0xffff_0000)))
}

#[inline(always)]
unsafe fn larger(a: float32x4_t, b: float32x4_t) -> float32x4_t {
    vbslq_f32(vcgtq_f32(a, b), a, b)
}

#[inline(always)]
unsafe fn reduce(v: V, f: impl Fn(float32x4_t, float32x4_t) -> float32x4_t) -> f32 {
    let four = f(f(v.0[0], v.0[2]), f(v.0[1], v.0[3]));
    let two = f(four, vextq_f32::<2>(four, four));
    vgetq_lane_f32::<0>(f(two, vextq_f32::<1>(two, two)))
}

impl Simd for Neon {
    type V = V;
    type I = I;
    // At most 24 accumulators, 4 registers of weights, 1 of a broadcast activation: 29 of 32.
    const TILES: Tiles = Tiles { panels: [0, 4, 2, 2, 1, 0, 1, 0, 0], many: 6 };
    const QUERIES: usize = 6;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        V([vdupq_n_f32(value); 4])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        V([vld1q_f32(from), vld1q_f32(from.add(4)), vld1q_f32(from.add(8)), vld1q_f32(from.add(12))])
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        vst1q_f32(to, v.0[0]);
        vst1q_f32(to.add(4), v.0[1]);
        vst1q_f32(to.add(8), v.0[2]);
        vst1q_f32(to.add(12), v.0[3]);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> V {
        V([
            widen_f16(vld1_u16(from)),
            widen_f16(vld1_u16(from.add(4))),
            widen_f16(vld1_u16(from.add(8))),
            widen_f16(vld1_u16(from.add(12))),
        ])
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> V {
        V([
            widen_bf16(vld1_u16(from)),
            widen_bf16(vld1_u16(from.add(4))),
            widen_bf16(vld1_u16(from.add(8))),
            widen_bf16(vld1_u16(from.add(12))),
        ])
    }
    #[inline(always)]
    unsafe fn load_bf16_even(from: *const u16) -> V {
        let from = from.cast::<u32>();
        let pairs = [vld1q_u32(from), vld1q_u32(from.add(4)), vld1q_u32(from.add(8)), vld1q_u32(from.add(12))];
        V(pairs.map(|pair| vreinterpretq_f32_u32(vshlq_n_u32::<16>(pair))))
    }
    #[inline(always)]
    unsafe fn load_bf16_odd(from: *const u16) -> V {
        let from = from.cast::<u32>();
        let pairs = [vld1q_u32(from), vld1q_u32(from.add(4)), vld1q_u32(from.add(8)), vld1q_u32(from.add(12))];
        V(pairs.map(|pair| vreinterpretq_f32_u32(vandq_u32(pair, vdupq_n_u32(0xffff_0000)))))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> V {
        let halves = [vmovl_s8(vld1_s8(from)), vmovl_s8(vld1_s8(from.add(8)))];
        let quarters = [
            vmovl_s16(vget_low_s16(halves[0])),
            vmovl_high_s16(halves[0]),
            vmovl_s16(vget_low_s16(halves[1])),
            vmovl_high_s16(halves[1]),
        ];
        V(quarters.map(|four| vcvtq_f32_s32(four)))
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        asm!("prfm pldl1keep, [{0}]", in(reg) line, options(readonly, nostack, preserves_flags));
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        zip(a, b, |a, b| vaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        zip(a, b, |a, b| vsubq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        zip(a, b, |a, b| vmulq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        zip(a, b, |a, b| vdivq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, c: V) -> V {
        V([
            vfmaq_f32(c.0[0], a.0[0], b.0[0]),
            vfmaq_f32(c.0[1], a.0[1], b.0[1]),
            vfmaq_f32(c.0[2], a.0[2], b.0[2]),
            vfmaq_f32(c.0[3], a.0[3], b.0[3]),
        ])
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        zip(a, b, |a, b| larger(a, b))
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        zip(a, b, |a, b| vbslq_f32(vcltq_f32(a, b), a, b))
    }
    #[inline(always)]
    unsafe fn select_lt(a: V, b: V, x: V, y: V) -> V {
        V([
            vbslq_f32(vcltq_f32(a.0[0], b.0[0]), x.0[0], y.0[0]),
            vbslq_f32(vcltq_f32(a.0[1], b.0[1]), x.0[1], y.0[1]),
            vbslq_f32(vcltq_f32(a.0[2], b.0[2]), x.0[2], y.0[2]),
            vbslq_f32(vcltq_f32(a.0[3], b.0[3]), x.0[3], y.0[3]),
        ])
    }
    #[inline(always)]
    unsafe fn exp2_shifted(v: V) -> V {
        map(v, |v| {
            let exponent = vshlq_n_u32::<23>(vreinterpretq_u32_f32(v));
            vreinterpretq_f32_u32(vaddq_u32(exponent, vdupq_n_u32(0x3f80_0000)))
        })
    }
    #[inline(always)]
    unsafe fn round_f16(v: V) -> V {
        map(v, |v| widen_f16(narrow_f16(v)))
    }
    #[inline(always)]
    unsafe fn round_bf16(v: V) -> V {
        map(v, |v| round_bf16(v))
    }
    #[inline(always)]
    unsafe fn reduce_add(v: V) -> f32 {
        reduce(v, |a, b| vaddq_f32(a, b))
    }
    #[inline(always)]
    unsafe fn reduce_max(v: V) -> f32 {
        reduce(v, |a, b| larger(a, b))
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> I {
        I([vdupq_n_s32(value); 4])
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> I {
        let from = from.cast::<i32>();
        I([vld1q_s32(from), vld1q_s32(from.add(4)), vld1q_s32(from.add(8)), vld1q_s32(from.add(12))])
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: I) {
        let to = to.cast::<i32>();
        vst1q_s32(to, v.0[0]);
        vst1q_s32(to.add(4), v.0[1]);
        vst1q_s32(to.add(8), v.0[2]);
        vst1q_s32(to.add(12), v.0[3]);
    }
    #[inline(always)]
    unsafe fn load_low_nibbles(from: *const u8) -> I {
        I(Self::load_words(from).0.map(|v| vandq_s32(v, vdupq_n_s32(0x0f0f_0f0f))))
    }
    #[inline(always)]
    unsafe fn load_high_nibbles(from: *const u8) -> I {
        I(Self::load_words(from).0.map(|v| vandq_s32(vshrq_n_s32::<4>(v), vdupq_n_s32(0x0f0f_0f0f))))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> I {
        let bytes = vld1q_u8(from);
        let (low, high) = (vmovl_u8(vget_low_u8(bytes)), vmovl_high_u8(bytes));
        let four =
            [vmovl_u16(vget_low_u16(low)), vmovl_high_u16(low), vmovl_u16(vget_low_u16(high)), vmovl_high_u16(high)];
        I(four.map(|v| vreinterpretq_s32_u32(v)))
    }
    #[inline(always)]
    unsafe fn mul_i32(a: I, b: I) -> I {
        I([vmulq_s32(a.0[0], b.0[0]), vmulq_s32(a.0[1], b.0[1]), vmulq_s32(a.0[2], b.0[2]), vmulq_s32(a.0[3], b.0[3])])
    }
    #[inline(always)]
    unsafe fn to_f32(v: I) -> V {
        V(v.0.map(|v| vcvtq_f32_s32(v)))
    }
    #[inline(always)]
    unsafe fn dot(w: I, x: I, sum: I) -> I {
        I([
            dot(w.0[0], x.0[0], sum.0[0]),
            dot(w.0[1], x.0[1], sum.0[1]),
            dot(w.0[2], x.0[2], sum.0[2]),
            dot(w.0[3], x.0[3], sum.0[3]),
        ])
    }
    #[inline(always)]
    unsafe fn as_f32(v: I) -> V {
        V(v.0.map(|v| vreinterpretq_f32_s32(v)))
    }
    #[inline(always)]
    unsafe fn as_i32(v: V) -> I {
        I(v.0.map(|v| vreinterpretq_s32_f32(v)))
    }
}
