//! Sixteen lanes in two 256-bit registers.
#![allow(unsafe_op_in_unsafe_fn, reason = "the contract of every function is the trait's")]

use std::arch::x86_64::*;

use super::{LANES, Simd, Tiles};

/// AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2;

/// Lanes 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct V(__m256, __m256);

/// Words 0 to 7 and 8 to 15.
#[derive(Clone, Copy)]
pub(crate) struct I(__m256i, __m256i);

#[inline(always)]
unsafe fn dot(w: __m256i, x: __m256i, sum: __m256i) -> __m256i {
    // Bytes 0 and 2, then 1 and 3, as pairs of 16 bits: sums of two products cannot overflow.
    let w = (_mm256_and_si256(w, _mm256_set1_epi16(0xff)), _mm256_srli_epi16::<8>(w));
    let x = (_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x));
    let sum = _mm256_add_epi32(sum, _mm256_madd_epi16(w.0, x.0));
    _mm256_add_epi32(sum, _mm256_madd_epi16(w.1, x.1))
}

#[inline(always)]
unsafe fn widen_bf16(bits: __m128i) -> __m256 {
    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
}

#[inline(always)]
unsafe fn select_lt(a: __m256, b: __m256, x: __m256, y: __m256) -> __m256 {
    _mm256_blendv_ps(y, x, _mm256_cmp_ps::<_CMP_LT_OQ>(a, b))
}

#[inline(always)]
unsafe fn exp2_shifted(v: __m256) -> __m256 {
    let exponent = _mm256_slli_epi32::<23>(_mm256_castps_si256(v));
    _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(0x3f80_0000)))
}

#[inline(always)]
unsafe fn round_f16(v: __m256) -> __m256 {
    _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(v))
}

#[inline(always)]
unsafe fn round_bf16(v: __m256) -> __m256 {
    let bits = _mm256_castps_si256(v);
    let odd = _mm256_and_si256(_mm256_srli_epi32::<16>(bits), _mm256_set1_epi32(1));
    let rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    // A NaN whose payload is in the low half would round to infinity.
    let quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x0040_0000));
    let nan = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_UNORD_Q>(v, v));
    let result = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm256_castsi256_ps(_mm256_and_si256(result, _mm256_set1_epi32(0xffff_0000_u32 as i32)))
}

/// Lane `i` of vector `j` becomes lane `j` of vector `i`.
#[inline(always)]
unsafe fn transpose8(r: [__m256; 8]) -> [__m256; 8] {
    let mut t = r;
    // Within fours of rows: 2x2 blocks of words, then of pairs of words.
    for i in [0, 4] {
        let (ab0, ab1) = (_mm256_unpacklo_ps(r[i], r[i + 1]), _mm256_unpackhi_ps(r[i], r[i + 1]));
        let (cd0, cd1) = (_mm256_unpacklo_ps(r[i + 2], r[i + 3]), _mm256_unpackhi_ps(r[i + 2], r[i + 3]));
        t[i] = _mm256_shuffle_ps::<0b01_00_01_00>(ab0, cd0);
        t[i + 1] = _mm256_shuffle_ps::<0b11_10_11_10>(ab0, cd0);
        t[i + 2] = _mm256_shuffle_ps::<0b01_00_01_00>(ab1, cd1);
        t[i + 3] = _mm256_shuffle_ps::<0b11_10_11_10>(ab1, cd1);
    }
    // Then the halves of 128 bits.
    let mut columns = r;
    for i in 0..4 {
        columns[i] = _mm256_permute2f128_ps::<0x20>(t[i], t[4 + i]);
        columns[4 + i] = _mm256_permute2f128_ps::<0x31>(t[i], t[4 + i]);
    }
    columns
}

impl Avx2 {
    /// [`Simd::dot`] with the instruction of AVX-VNNI, which the machine must have besides AVX2.
    #[inline(always)]
    pub(crate) unsafe fn byte_dots(w: I, x: I, sum: I) -> I {
        I(_mm256_dpbusd_avx_epi32(sum.0, w.0, x.0), _mm256_dpbusd_avx_epi32(sum.1, w.1, x.1))
    }
}

impl Simd for Avx2 {
    type V = V;
    type I = I;
    // At most 12 accumulators, 2 registers of weights, 1 of a broadcast activation: 15 of 16.
    const TILES: Tiles = Tiles { panels: [0, 4, 2, 2, 1, 0, 1, 0, 0], many: 6 };
    const QUERIES: usize = 6;
    const ACCUMULATORS: usize = 6;

    #[inline(always)]
    unsafe fn splat(value: f32) -> V {
        V(_mm256_set1_ps(value), _mm256_set1_ps(value))
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> V {
        V(_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8)))
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, v: V) {
        _mm256_storeu_ps(to, v.0);
        _mm256_storeu_ps(to.add(8), v.1);
    }
    #[inline(always)]
    unsafe fn load_f16(from: *const u16) -> V {
        V(_mm256_cvtph_ps(_mm_loadu_si128(from.cast())), _mm256_cvtph_ps(_mm_loadu_si128(from.add(8).cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const u16) -> V {
        V(widen_bf16(_mm_loadu_si128(from.cast())), widen_bf16(_mm_loadu_si128(from.add(8).cast())))
    }
    #[inline(always)]
    unsafe fn load_bf16_even(from: *const u16) -> V {
        let (a, b) = (_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(16).cast()));
        V(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(a)), _mm256_castsi256_ps(_mm256_slli_epi32::<16>(b)))
    }
    #[inline(always)]
    unsafe fn load_bf16_odd(from: *const u16) -> V {
        let high = _mm256_castsi256_ps(_mm256_set1_epi32(0xffff_0000_u32 as i32));
        let (a, b) = (_mm256_loadu_ps(from.cast()), _mm256_loadu_ps(from.add(16).cast()));
        V(_mm256_and_ps(a, high), _mm256_and_ps(b, high))
    }
    #[inline(always)]
    unsafe fn load_i8(from: *const i8) -> V {
        let widen = |from: *const i8| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast())));
        V(widen(from), widen(from.add(8)))
    }
    #[inline(always)]
    unsafe fn prefetch(line: *const u8) {
        _mm_prefetch::<_MM_HINT_T0>(line.cast());
    }
    #[inline(always)]
    unsafe fn add(a: V, b: V) -> V {
        V(_mm256_add_ps(a.0, b.0), _mm256_add_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn sub(a: V, b: V) -> V {
        V(_mm256_sub_ps(a.0, b.0), _mm256_sub_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn mul(a: V, b: V) -> V {
        V(_mm256_mul_ps(a.0, b.0), _mm256_mul_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn div(a: V, b: V) -> V {
        V(_mm256_div_ps(a.0, b.0), _mm256_div_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn mul_add(a: V, b: V, c: V) -> V {
        V(_mm256_fmadd_ps(a.0, b.0, c.0), _mm256_fmadd_ps(a.1, b.1, c.1))
    }
    #[inline(always)]
    unsafe fn max(a: V, b: V) -> V {
        V(_mm256_max_ps(a.0, b.0), _mm256_max_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn min(a: V, b: V) -> V {
        V(_mm256_min_ps(a.0, b.0), _mm256_min_ps(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn select_lt(a: V, b: V, x: V, y: V) -> V {
        V(select_lt(a.0, b.0, x.0, y.0), select_lt(a.1, b.1, x.1, y.1))
    }
    #[inline(always)]
    unsafe fn exp2_shifted(v: V) -> V {
        V(exp2_shifted(v.0), exp2_shifted(v.1))
    }
    #[inline(always)]
    unsafe fn round_f16(v: V) -> V {
        V(round_f16(v.0), round_f16(v.1))
    }
    #[inline(always)]
    unsafe fn round_bf16(v: V) -> V {
        V(round_bf16(v.0), round_bf16(v.1))
    }
    #[inline(always)]
    unsafe fn reduce_add(v: V) -> f32 {
        let eight = _mm256_add_ps(v.0, v.1);
        let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn reduce_max(v: V) -> f32 {
        let eight = _mm256_max_ps(v.0, v.1);
        let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
        let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
        _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
    }
    #[inline(always)]
    unsafe fn splat_i32(value: i32) -> I {
        I(_mm256_set1_epi32(value), _mm256_set1_epi32(value))
    }
    #[inline(always)]
    unsafe fn load_words(from: *const u8) -> I {
        I(_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast()))
    }
    #[inline(always)]
    unsafe fn store_words(to: *mut u8, v: I) {
        _mm256_storeu_si256(to.cast(), v.0);
        _mm256_storeu_si256(to.add(32).cast(), v.1);
    }
    #[inline(always)]
    unsafe fn load_low_nibbles(from: *const u8) -> I {
        let (v, mask) = (Self::load_words(from), _mm256_set1_epi8(15));
        I(_mm256_and_si256(v.0, mask), _mm256_and_si256(v.1, mask))
    }
    #[inline(always)]
    unsafe fn load_high_nibbles(from: *const u8) -> I {
        let (v, mask) = (Self::load_words(from), _mm256_set1_epi8(15));
        I(_mm256_and_si256(_mm256_srli_epi32::<4>(v.0), mask), _mm256_and_si256(_mm256_srli_epi32::<4>(v.1), mask))
    }
    #[inline(always)]
    unsafe fn load_u8(from: *const u8) -> I {
        let bytes = _mm_loadu_si128(from.cast());
        I(_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(_mm_srli_si128::<8>(bytes)))
    }
    #[inline(always)]
    unsafe fn mul_i32(a: I, b: I) -> I {
        I(_mm256_mullo_epi32(a.0, b.0), _mm256_mullo_epi32(a.1, b.1))
    }
    #[inline(always)]
    unsafe fn to_f32(v: I) -> V {
        V(_mm256_cvtepi32_ps(v.0), _mm256_cvtepi32_ps(v.1))
    }
    #[inline(always)]
    unsafe fn dot(w: I, x: I, sum: I) -> I {
        I(dot(w.0, x.0, sum.0), dot(w.1, x.1, sum.1))
    }
    #[inline(always)]
    unsafe fn as_f32(v: I) -> V {
        V(_mm256_castsi256_ps(v.0), _mm256_castsi256_ps(v.1))
    }
    #[inline(always)]
    unsafe fn as_i32(v: V) -> I {
        I(_mm256_castps_si256(v.0), _mm256_castps_si256(v.1))
    }
    #[inline(always)]
    unsafe fn transpose(rows: [V; LANES]) -> [V; LANES] {
        // Four blocks of eight by eight; those off the diagonal change places. Filled by a loop: `map` would be a call.
        let [mut a, mut b, mut c, mut d] = [[_mm256_setzero_ps(); 8]; 4];
        for i in 0..8 {
            (a[i], b[i]) = (rows[i].0, rows[i].1);
            (c[i], d[i]) = (rows[8 + i].0, rows[8 + i].1);
        }
        let [a, b, c, d] = [transpose8(a), transpose8(b), transpose8(c), transpose8(d)];
        let mut columns = rows;
        for i in 0..8 {
            columns[i] = V(a[i], c[i]);
            columns[8 + i] = V(b[i], d[i]);
        }
        columns
    }
}
