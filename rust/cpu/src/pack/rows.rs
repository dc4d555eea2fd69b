//! Kernels of packing: rows of a checkpoint to words, and words to panels.
#![allow(clippy::needless_range_loop, reason = "vectors are indexed by row")]
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels: pointers are valid for what the sizes say, the CPU has the features"
)]

use half::f16;
use rustllm_ops::DType;
use rustllm_ops::quantize::TINY;

use super::{INT4_ZERO, INT8_ZERO};
use crate::simd::{LANES, Simd};

/// `n` little-endian elements as float32.
#[inline(always)]
pub(crate) unsafe fn decode_row<S: Simd>(dtype: DType, from: *const u8, n: usize, to: *mut f32) {
    let whole = n / LANES * LANES;
    let rest = dtype.decode(std::slice::from_raw_parts(from.add(whole * dtype.size()), (n - whole) * dtype.size()));
    for i in (0..whole).step_by(LANES) {
        let at = from.add(i * dtype.size());
        let v = match dtype {
            DType::F32 => S::load(at.cast()),
            DType::F16 => S::load_f16(at.cast()),
            DType::BF16 => S::load_bf16(at.cast()),
        };
        S::store(to.add(i), v);
    }
    std::ptr::copy_nonoverlapping(rest.as_ptr(), to.add(whole), n - whole);
}

/// A row to eight bits and a scale, as [`rustllm_ops::quantize::int8_row`] defines them; codes are stored plus 128.
#[inline(always)]
pub(crate) unsafe fn quantize_int8<S: Simd>(x: *const f32, n: usize, to: *mut u32, scale: *mut f32) {
    let (min, max, poison) = extremes::<S>(x, n);
    let largest = if -min > max { -min } else { max };
    *scale = largest / 127.0 + poison;
    let inverse = S::splat(if largest < TINY { 0.0 } else { 127.0 / largest });
    for i in (0..n.next_multiple_of(4)).step_by(LANES) {
        let code = S::add(round::<S>(S::mul(load::<S>(x, n, i), inverse)), S::splat(f32::from(INT8_ZERO)));
        store_codes::<S>(to.cast(), i, n.next_multiple_of(4), code);
    }
}

/// A group to four bits, a scale and a zero point, as [`rustllm_ops::quantize::int4_group`] defines them. `n` may be less
/// than the group's size; what is missing has the code of zero.
#[inline(always)]
pub(crate) unsafe fn quantize_int4<S: Simd>(
    x: *const f32,
    n: usize,
    group_size: usize,
    symmetric: bool,
    to: *mut u32,
    scale: &mut u16,
    zero: &mut u8,
) {
    let (min, max, poison) = extremes::<S>(x, n);
    let step = if symmetric { (if -min > max { min } else { max }) / -8.0 } else { (max - min) / 15.0 };
    let rounded = f16::from_f32(step);
    *scale = if poison.is_nan() { f16::NAN } else { rounded }.to_bits();
    let inverse = if step.abs() < TINY || rounded == f16::ZERO { 0.0 } else { 1.0 / rounded.to_f32() };
    *zero = if symmetric { INT4_ZERO } else { (-min * inverse).round_ties_even().clamp(0.0, 15.0) as u8 };
    let offset = S::splat(f32::from(*zero));
    let mut codes = [0u8; 128];
    for i in (0..group_size).step_by(LANES) {
        let code = S::add(round::<S>(S::mul(load::<S>(x, n, i), S::splat(inverse))), offset);
        let clamped = S::min(S::splat(15.0), S::max(S::splat(0.0), code));
        S::store_i8(codes.as_mut_ptr().add(i).cast(), clamped);
    }
    for (word, eight) in codes.as_chunks::<8>().0.iter().enumerate().take(group_size / 8) {
        let pair = u64::from_le_bytes(*eight);
        *to.add(word) = (pair | pair >> 28) as u32;
    }
}

/// `x[i .. i + 16]`, with zeros from `n` on.
#[inline(always)]
unsafe fn load<S: Simd>(x: *const f32, n: usize, i: usize) -> S::V {
    S::load_partial(x.add(i.min(n)), n.saturating_sub(i))
}

/// To the nearest integer, ties to even, of numbers below 2^22.
#[inline(always)]
unsafe fn round<S: Simd>(v: S::V) -> S::V {
    let shift = S::splat(12_582_912.0);
    S::sub(S::add(v, shift), shift)
}

/// The least and the greatest, zero among them, and a zero that is NaN if there is a number that is not finite.
#[inline(always)]
unsafe fn extremes<S: Simd>(x: *const f32, n: usize) -> (f32, f32, f32) {
    let zero = S::splat(0.0);
    let (mut least, mut greatest, mut poison) = (zero, zero, zero);
    for i in (0..n).step_by(LANES) {
        let v = load::<S>(x, n, i);
        // Of the negation, so that one reduction serves both.
        least = S::max(S::sub(zero, v), least);
        greatest = S::max(v, greatest);
        poison = S::mul_add(v, zero, poison);
    }
    (-S::reduce_max(least), S::reduce_max(greatest), S::reduce_add(poison))
}

#[inline(always)]
unsafe fn store_codes<S: Simd>(to: *mut i8, i: usize, end: usize, code: S::V) {
    if i + LANES <= end {
        return S::store_i8(to.add(i), code);
    }
    let mut codes = [0i8; LANES];
    S::store_i8(codes.as_mut_ptr(), code);
    std::ptr::copy_nonoverlapping(codes.as_ptr(), to.add(i), end - i);
}

/// Sixteen rows of `words` words, `stride` apart, to `[words][16]`.
#[inline(always)]
pub(crate) unsafe fn transpose_words<S: Simd>(from: *const u32, stride: usize, words: usize, to: *mut u8) {
    let (from, to) = (from.cast::<f32>(), to.cast::<f32>());
    for word in (0..words).step_by(LANES) {
        let n = words - word;
        let mut rows = [S::splat(0.0); LANES];
        for row in 0..LANES {
            rows[row] = S::load_partial(from.add(row * stride + word), n);
        }
        let columns = S::transpose(rows);
        for i in 0..LANES.min(n) {
            S::store(to.add((word + i) * LANES), columns[i]);
        }
    }
}

/// Each of `words` lines of sixteen pairs of 16 bits to a line of the firsts and one of the seconds.
#[inline(always)]
pub(crate) unsafe fn split_pairs<S: Simd>(lines: *mut u8, words: usize) {
    let lines = lines.cast::<[[u16; 2]; LANES]>();
    for word in 0..words {
        let pairs = *lines.add(word);
        lines.add(word).cast::<[u16; LANES]>().write(pairs.map(|pair| pair[0]));
        lines.add(word).cast::<[u16; LANES]>().add(1).write(pairs.map(|pair| pair[1]));
    }
}
