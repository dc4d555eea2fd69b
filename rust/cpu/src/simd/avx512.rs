//! Sixteen lanes in one 512-bit register.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every function is the trait's")]

use std::arch::x86_64::*;

use super::{LANES, Simd, Tiles};

/// AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy)]
pub(crate) struct Avx512;

/// A mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= LANES { u16::MAX } else { (1u16 << n) - 1 }
}

impl Simd for Avx512 {
    type V = __m512;
    type I = __m512i;
    // At most 24 accumulators, 4 registers of weights, 1 of a broadcast activation: 29 of 32.
    const TILES: Tiles = Tiles { panels: [0, 4, 4, 4, 4, 0, 4, 0, 3], many: 8 };
    // Twice as many sums: 6 x 2 of both stay in registers, which pays once rows are many.
    const GROUPED_TILES: Tiles = Tiles { panels: [0, 4, 4, 4, 4, 0, 2, 0, 3], many: 6 };
    const QUERIES: usize = 8;
    const ACCUMULATORS: usize = 24;

    #[inline(always)]
    unsafe fn splat(value: f32) -> __m512 {
        _mm512_set1_ps(value)
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> __m512 {
        _mm512_loadu_ps(from)
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: __m512) {
        _mm512_storeu_ps(to, v);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> __m512 {
        _mm512_cvtph_ps(_mm256_loadu_si256(from.cast()))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))))
    }
    #[inline(always)]
    unsafe fn load_bf16_even(from: *const u16) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_loadu_si512(from.cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16_odd(from: *const u16) -> __m512 {
        let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from.cast()), high))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> __m512 {
        _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast())))
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[inline(always)]
    unsafe fn add(a: __m512, b: __m512) -> __m512 {
        _mm512_add_ps(a, b)
    }
    #[inline(always)]
    unsafe fn sub(a: __m512, b: __m512) -> __m512 {
        _mm512_sub_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul(a: __m512, b: __m512) -> __m512 {
        _mm512_mul_ps(a, b)
    }
    #[inline(always)]
    unsafe fn div(a: __m512, b: __m512) -> __m512 {
        _mm512_div_ps(a, b)
    }
    #[inline(always)]
    unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
        _mm512_fmadd_ps(a, b, c)
    }
    #[inline(always)]
    unsafe fn max(a: __m512, b: __m512) -> __m512 {
        _mm512_max_ps(a, b)
    }
    #[inline(always)]
    unsafe fn min(a: __m512, b: __m512) -> __m512 {
        _mm512_min_ps(a, b)
    }
    #[inline(always)]
    unsafe fn select_lt(a: __m512, b: __m512, x: __m512, y: __m512) -> __m512 {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b), y, x)
    }
    #[inline(always)]
    unsafe fn exp2_shifted(v: __m512) -> __m512 {
        let exponent = _mm512_slli_epi32::<23>(_mm512_castps_si512(v));
        _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(0x3f80_0000)))
    }
    #[inline(always)]
    unsafe fn round_f16(v: __m512) -> __m512 {
        _mm512_cvtph_ps(_mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
    }
    #[inline(always)]
    unsafe fn round_bf16(v: __m512) -> __m512 {
        let bits = _mm512_castps_si512(v);
        let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
        let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
        // A NaN whose payload is in the low half would round to infinity.
        let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(v, v);
        let result = _mm512_mask_or_epi32(rounded, nan, bits, _mm512_set1_epi32(0x0040_0000));
        _mm512_castsi512_ps(_mm512_and_si512(result, _mm512_set1_epi32(0xffff_0000_u32 as i32)))
    }
    #[inline(always)]
    unsafe fn reduce_add(v: __m512) -> f32 {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn reduce_max(v: __m512) -> f32 {
        let eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps::<1>(v));
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> __m512 {
        _mm512_maskz_loadu_ps(first(n), from)
    }
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: __m512, n: usize) {
        _mm512_mask_storeu_ps(to, first(n), v);
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> __m512i {
        _mm512_set1_epi32(value)
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> __m512i {
        _mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: __m512i) {
        _mm512_storeu_si512(to.cast(), v);
    }
    #[inline(always)]
    unsafe fn load_low_nibbles(from: *const u8) -> __m512i {
        _mm512_and_si512(_mm512_loadu_si512(from.cast()), _mm512_set1_epi8(15))
    }
    #[inline(always)]
    unsafe fn load_high_nibbles(from: *const u8) -> __m512i {
        _mm512_and_si512(_mm512_srli_epi32::<4>(_mm512_loadu_si512(from.cast())), _mm512_set1_epi8(15))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> __m512i {
        _mm512_cvtepu8_epi32(_mm_loadu_si128(from.cast()))
    }
    #[inline(always)]
    unsafe fn mul_i32(a: __m512i, b: __m512i) -> __m512i {
        _mm512_mullo_epi32(a, b)
    }
    #[inline(always)]
    unsafe fn to_f32(v: __m512i) -> __m512 {
        _mm512_cvtepi32_ps(v)
    }
    #[inline(always)]
    unsafe fn dot(w: __m512i, x: __m512i, sum: __m512i) -> __m512i {
        // Bytes 0 and 2, then 1 and 3, as pairs of 16 bits: sums of two products cannot overflow.
        let w = (_mm512_and_si512(w, _mm512_set1_epi16(0xff)), _mm512_srli_epi16::<8>(w));
        let x = (_mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(x)), _mm512_srai_epi16::<8>(x));
        let sum = _mm512_add_epi32(sum, _mm512_madd_epi16(w.0, x.0));
        _mm512_add_epi32(sum, _mm512_madd_epi16(w.1, x.1))
    }
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, v: __m512) {
        let integers = _mm512_castps_si512(_mm512_add_ps(v, _mm512_set1_ps(12_582_912.0)));
        _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(integers));
    }
    #[inline(always)]
    unsafe fn transpose(rows: [__m512; LANES]) -> [__m512; LANES] {
        let mut t = rows;
        // Within quarters of four rows: 2x2 blocks of words, then of pairs of words.
        for i in (0..LANES).step_by(4) {
            let (a, b, c, d) = (rows[i], rows[i + 1], rows[i + 2], rows[i + 3]);
            let (ab0, ab1) = (_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b));
            let (cd0, cd1) = (_mm512_unpacklo_ps(c, d), _mm512_unpackhi_ps(c, d));
            t[i] = _mm512_shuffle_ps::<0b01_00_01_00>(ab0, cd0);
            t[i + 1] = _mm512_shuffle_ps::<0b11_10_11_10>(ab0, cd0);
            t[i + 2] = _mm512_shuffle_ps::<0b01_00_01_00>(ab1, cd1);
            t[i + 3] = _mm512_shuffle_ps::<0b11_10_11_10>(ab1, cd1);
        }
        // Then 4x4 blocks of 128 bits.
        let mut columns = rows;
        for i in 0..4 {
            let (a, b, c, d) = (t[i], t[4 + i], t[8 + i], t[12 + i]);
            let (ab0, ab1) = (_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0xdd>(a, b));
            let (cd0, cd1) = (_mm512_shuffle_f32x4::<0x88>(c, d), _mm512_shuffle_f32x4::<0xdd>(c, d));
            columns[i] = _mm512_shuffle_f32x4::<0x88>(ab0, cd0);
            columns[8 + i] = _mm512_shuffle_f32x4::<0xdd>(ab0, cd0);
            columns[4 + i] = _mm512_shuffle_f32x4::<0x88>(ab1, cd1);
            columns[12 + i] = _mm512_shuffle_f32x4::<0xdd>(ab1, cd1);
        }
        columns
    }
    #[inline(always)]
    unsafe fn as_f32(v: __m512i) -> __m512 {
        _mm512_castsi512_ps(v)
    }
    #[inline(always)]
    unsafe fn as_i32(v: __m512) -> __m512i {
        _mm512_castps_si512(v)
    }
    #[inline(always)]
    unsafe fn pack_i8(v: [__m512; 4]) -> __m512i {
        let low = _mm512_packs_epi32(_mm512_cvtps_epi32(v[0]), _mm512_cvtps_epi32(v[1]));
        let high = _mm512_packs_epi32(_mm512_cvtps_epi32(v[2]), _mm512_cvtps_epi32(v[3]));
        // Packing goes by quarters of a register: words 0, 4, 8, 12 of the result are the first vector's, and so on.
        let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
        _mm512_permutexvar_epi32(order, _mm512_packs_epi16(low, high))
    }
}
