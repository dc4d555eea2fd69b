//! Sixteen float32 lanes, whatever the machine's vectors are: what every kernel is written in.
//!
//! ```text
//!   lane     0 ... 3  4 ... 7  8 ... 11  12 ... 15
//!   AVX-512  [             one register           ]
//!   AVX2     [   register 0   ][    register 1    ]
//!   NEON     [  r 0  ][  r 1  ][  r 2   ][  r 3   ]
//!   scalar   an array
//! ```
//!
//! Each operation is one IEEE operation a lane, multiply-add fused everywhere, and sums over lanes are taken in one order
//! (lane `i` with `i + 8`, then `i + 4`, `i + 2`, `i + 1`). A kernel therefore gives the same bits on every instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

#[cfg(target_arch = "x86_64")]
pub(crate) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) use avx512::Avx512;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
pub(crate) use scalar::Scalar;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Most rows of a register tile.
pub(crate) const MAX_TILE_ROWS: usize = 8;

/// The register tiles of a linear layer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tiles {
    /// Panels by number of rows, 1 to 4; 0 where there is no such tile. There is one for a single row. Index 0 is unused.
    pub(crate) panels: [usize; MAX_TILE_ROWS + 1],
    /// Rows of the tile that is fastest for many rows.
    pub(crate) many: usize,
}

/// Indices of the lanes, for masks.
pub(crate) const LANE_INDICES: [f32; LANES] = [0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11., 12., 13., 14., 15.];

/// An instruction set's way to compute with sixteen lanes.
///
/// # Safety
/// Of every function: the machine has the instruction set, and pointers are valid for the sixteen elements (or the
/// number named) they are read or written for. Alignment is not needed. Functions are `inline(always)` so that they
/// become part of a caller compiled for the instruction set.
pub(crate) trait Simd: Copy + 'static {
    /// Sixteen lanes of float32.
    type V: Copy;
    /// Sixteen lanes of 32-bit integers, or of four bytes each.
    type I: Copy;

    /// The register tiles there are.
    const TILES: Tiles;
    /// The same for weights in groups, where a tile keeps the group's integer sums beside its float32 sums.
    const GROUPED_TILES: Tiles = Self::TILES;
    /// Queries that attention scores at once, at most eight.
    const QUERIES: usize;
    /// Sums that attention keeps in registers at once: queries x vectors of positions or of elements.
    const ACCUMULATORS: usize;

    unsafe fn splat(value: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, v: Self::V);
    /// Sixteen halves, widened.
    unsafe fn load_f16(from: *const u16) -> Self::V;
    /// Sixteen bfloat16, widened.
    unsafe fn load_bf16(from: *const u16) -> Self::V;
    /// Of thirty-two bfloat16 those at even places, widened.
    unsafe fn load_bf16_even(from: *const u16) -> Self::V;
    /// Of thirty-two bfloat16 those at odd places, widened.
    unsafe fn load_bf16_odd(from: *const u16) -> Self::V;
    /// Sixteen bytes, as the numbers -128 to 127 that they are.
    unsafe fn load_i8(from: *const i8) -> Self::V;
    /// Asks for a cache line that will be read soon. Any address will do.
    #[inline(always)]
    unsafe fn prefetch(_line: *const u8) {}

    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn mul_add(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `if a > b { a } else { b }`: the second if either is NaN.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { a } else { b }`: the second if either is NaN.
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// `if a < b { x } else { y }`.
    unsafe fn select_lt(a: Self::V, b: Self::V, x: Self::V, y: Self::V) -> Self::V;
    /// `2^n` for lanes `n + 1.5 * 2^23`, `n` from -126 to 127 (whose low bits are `n`'s).
    unsafe fn exp2_shifted(v: Self::V) -> Self::V;
    /// The nearest half, ties to even.
    unsafe fn round_f16(v: Self::V) -> Self::V;
    /// The nearest bfloat16, ties to even.
    unsafe fn round_bf16(v: Self::V) -> Self::V;
    /// The sum, in the order named above.
    unsafe fn reduce_add(v: Self::V) -> f32;
    /// The largest.
    unsafe fn reduce_max(v: Self::V) -> f32;

    unsafe fn splat_i32(value: i32) -> Self::I;
    /// Sixty-four bytes.
    unsafe fn load_words(from: *const u8) -> Self::I;
    unsafe fn store_words(to: *mut u8, v: Self::I);
    /// The low four bits of sixty-four bytes.
    unsafe fn load_low_nibbles(from: *const u8) -> Self::I;
    /// The high four bits of sixty-four bytes.
    unsafe fn load_high_nibbles(from: *const u8) -> Self::I;
    /// Sixteen bytes, widened.
    unsafe fn load_u8(from: *const u8) -> Self::I;
    unsafe fn mul_i32(a: Self::I, b: Self::I) -> Self::I;
    unsafe fn to_f32(v: Self::I) -> Self::V;
    /// `sum + w[0] * x[0] + ... + w[3] * x[3]` over the bytes of each lane, `w`'s unsigned and `x`'s signed, exactly.
    unsafe fn dot(w: Self::I, x: Self::I, sum: Self::I) -> Self::I;

    /// Stores the lanes, rounded to the nearest integer, ties to even; the lowest byte of numbers below 2^22.
    #[inline(always)]
    unsafe fn store_i8(to: *mut i8, v: Self::V) {
        // 1.5 * 2^23: adding it rounds to an integer, whose bits end up lowest.
        // SAFETY: the caller vouches for sixteen bytes.
        unsafe {
            let mut lanes = [0.0f32; LANES];
            Self::store(lanes.as_mut_ptr(), Self::add(v, Self::splat(12_582_912.0)));
            to.cast::<[i8; LANES]>().write_unaligned(lanes.map(|lane| lane.to_bits() as i8));
        }
    }

    /// The same bits.
    unsafe fn as_f32(v: Self::I) -> Self::V;
    /// The same bits.
    unsafe fn as_i32(v: Self::V) -> Self::I;

    /// Sixty-four lanes, as [`store_i8`](Self::store_i8) stores them.
    #[inline(always)]
    unsafe fn pack_i8(v: [Self::V; 4]) -> Self::I {
        // SAFETY: an array of sixty-four.
        unsafe {
            let mut bytes = [0i8; 4 * LANES];
            for (i, v) in v.into_iter().enumerate() {
                Self::store_i8(bytes.as_mut_ptr().add(i * LANES), v);
            }
            Self::load_words(bytes.as_ptr().cast())
        }
    }

    /// Lane `i` of vector `j` becomes lane `j` of vector `i`, bits unchanged.
    #[inline(always)]
    unsafe fn transpose(rows: [Self::V; LANES]) -> [Self::V; LANES] {
        // SAFETY: arrays of sixteen.
        unsafe {
            let mut lanes = [[0.0f32; LANES]; LANES];
            for (row, lanes) in rows.into_iter().zip(&mut lanes) {
                Self::store(lanes.as_mut_ptr(), row);
            }
            let mut columns = rows;
            for (i, column) in columns.iter_mut().enumerate() {
                *column = Self::load(lanes.map(|row| row[i]).as_ptr());
            }
            columns
        }
    }

    /// The first `n` elements, then zeros. Reads no more.
    #[inline(always)]
    unsafe fn load_partial(from: *const f32, n: usize) -> Self::V {
        // SAFETY: the caller vouches for `n` elements; at most sixteen are read.
        unsafe {
            if n >= LANES {
                return Self::load(from);
            }
            let mut lanes = [0.0f32; LANES];
            std::ptr::copy_nonoverlapping(from, lanes.as_mut_ptr(), n);
            Self::load(lanes.as_ptr())
        }
    }

    /// Writes the first `n` lanes, and no more.
    #[inline(always)]
    unsafe fn store_partial(to: *mut f32, v: Self::V, n: usize) {
        // SAFETY: as in `load_partial`.
        unsafe {
            if n >= LANES {
                return Self::store(to, v);
            }
            let mut lanes = [0.0f32; LANES];
            Self::store(lanes.as_mut_ptr(), v);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), to, n);
        }
    }

    /// Lanes `first .. last` of `x`, the others of `y`.
    #[inline(always)]
    unsafe fn select_range(first: usize, last: usize, x: Self::V, y: Self::V) -> Self::V {
        // SAFETY: the constant has sixteen elements.
        unsafe {
            let index = Self::load(LANE_INDICES.as_ptr());
            let x = Self::select_lt(index, Self::splat(last as f32), x, y);
            Self::select_lt(index, Self::splat(first as f32), y, x)
        }
    }
}

/// Asks for the cache line of an address, which need not exist.
#[inline(always)]
pub(crate) fn prefetch(from: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction, and it touches no memory that a program could see.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(from.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = from;
}

#[cfg(test)]
#[allow(clippy::undocumented_unsafe_blocks, reason = "vectors of sixteen, on sets that `on_all` found")]
mod tests {
    use super::*;
    use half::{bf16, f16};

    /// Calls `check` for every instruction set of this machine.
    macro_rules! on_all {
        ($check:ident) => {
            // SAFETY: each is called only where the machine has it.
            unsafe {
                $check::<Scalar>();
                #[cfg(target_arch = "x86_64")]
                {
                    #[target_feature(enable = "avx2,fma,f16c")]
                    unsafe fn avx2() {
                        unsafe { $check::<Avx2>() }
                    }
                    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
                    unsafe fn avx512() {
                        unsafe { $check::<Avx512>() }
                    }
                    if crate::Isa::Avx2.is_available() {
                        avx2();
                    }
                    if crate::Isa::Avx512.is_available() {
                        avx512();
                    }
                }
                #[cfg(target_arch = "aarch64")]
                $check::<Neon>();
            }
        };
    }

    #[inline(always)]
    unsafe fn lanes<S: Simd>(v: S::V) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        unsafe { S::store(out.as_mut_ptr(), v) };
        out
    }

    /// Values where roundings to 16 bits bite: ties, overflow, subnormals, infinities, NaN.
    const HARD: [f32; LANES] = [
        0.0,
        -0.0,
        1.0 + 1.0 / 256.0,
        1.0 + 3.0 / 256.0,
        1.0 + 1.0 / 2048.0,
        1.0 + 3.0 / 2048.0,
        65519.0,
        65520.0,
        -3.4e38,
        3.0e-8,
        6.0e-8,
        1.0e-40,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
        -0.1,
    ];

    fn same(a: f32, b: f32) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn rounds_to_sixteen_bits_as_half_does() {
        #[inline(always)]
        unsafe fn check<S: Simd>() {
            let (f, b) = unsafe {
                let v = S::load(HARD.as_ptr());
                (lanes::<S>(S::round_f16(v)), lanes::<S>(S::round_bf16(v)))
            };
            for (i, value) in HARD.iter().enumerate() {
                assert!(same(f[i], f16::from_f32(*value).to_f32()), "f16 of {value}: {}", f[i]);
                assert!(same(b[i], bf16::from_f32(*value).to_f32()), "bf16 of {value}: {}", b[i]);
            }
        }
        on_all!(check);
    }

    #[test]
    fn widens_what_is_stored() {
        #[inline(always)]
        unsafe fn check<S: Simd>() {
            let f: Vec<u16> = HARD.iter().map(|v| f16::from_f32(*v).to_bits()).collect();
            let bytes: [i8; LANES] = [-128, 127, -1, 0, 1, 2, 3, 4, -127, 126, -2, 100, -100, 64, -64, 7];
            let b: Vec<u16> = (0..32).map(|i| bf16::from_f32(i as f32 - 7.5).to_bits()).collect();
            let (integers, halves, first, pairs) = unsafe {
                let (even, odd) = (S::load_bf16_even(b.as_ptr()), S::load_bf16_odd(b.as_ptr()));
                (
                    lanes::<S>(S::load_i8(bytes.as_ptr())),
                    lanes::<S>(S::load_f16(f.as_ptr())),
                    lanes::<S>(S::load_bf16(b.as_ptr())),
                    (lanes::<S>(even), lanes::<S>(odd)),
                )
            };
            assert_eq!(integers, bytes.map(f32::from));
            for i in 0..LANES {
                assert!(same(halves[i], f16::from_bits(f[i]).to_f32()));
                assert_eq!(first[i], bf16::from_bits(b[i]).to_f32());
                assert_eq!(pairs.0[i], bf16::from_bits(b[2 * i]).to_f32());
                assert_eq!(pairs.1[i], bf16::from_bits(b[2 * i + 1]).to_f32());
            }
        }
        on_all!(check);
    }

    #[test]
    fn integers_are_exact() {
        #[inline(always)]
        unsafe fn check<S: Simd>() {
            let weights: [u8; 64] = std::array::from_fn(|i| (i * 37 + 250) as u8);
            let inputs: [i8; 4] = [-127, 127, -128, 5];
            let (mut dots, mut floats) = ([0i32; LANES], [0.0f32; LANES]);
            unsafe {
                let w = S::load_words(weights.as_ptr());
                let sum = S::dot(w, S::splat_i32(i32::from_le_bytes(inputs.map(|x| x as u8))), S::splat_i32(-7));
                S::store_words(dots.as_mut_ptr().cast(), sum);
                S::store(floats.as_mut_ptr(), S::to_f32(S::mul_i32(sum, S::load_u8(weights.as_ptr()))));
            }
            for lane in 0..LANES {
                let terms = (0..4).map(|i| i32::from(weights[lane * 4 + i]) * i32::from(inputs[i]));
                let want = terms.sum::<i32>() - 7;
                assert_eq!(dots[lane], want);
                assert_eq!(floats[lane], (want * i32::from(weights[lane])) as f32);
            }
            let (mut low, mut high) = ([0u8; 64], [0u8; 64]);
            unsafe {
                S::store_words(low.as_mut_ptr(), S::load_low_nibbles(weights.as_ptr()));
                S::store_words(high.as_mut_ptr(), S::load_high_nibbles(weights.as_ptr()));
            }
            assert!((0..64).all(|i| low[i] == weights[i] & 15 && high[i] == weights[i] >> 4));
        }
        on_all!(check);
    }

    #[test]
    fn narrows_and_transposes() {
        #[inline(always)]
        unsafe fn check<S: Simd>() {
            let values: [f32; LANES] =
                std::array::from_fn(|i| [0.5, 1.5, -0.5, -1.5, 126.6, -127.0, 2.4999, 0.0][i % 8]);
            let mut bytes = [99i8; LANES];
            unsafe { S::store_i8(bytes.as_mut_ptr(), S::load(values.as_ptr())) };
            assert_eq!(bytes[..8], [0, 2, 0, -2, 127, -127, 2, 0]);
            assert_eq!(bytes[8..], bytes[..8]);
            let many: [f32; 64] = std::array::from_fn(|i| i as f32 * 3.9 - 127.0);
            let mut packed = [0i8; 64];
            unsafe {
                let quarters = [0, 16, 32, 48].map(|i| S::load(many.as_ptr().add(i)));
                let words = S::as_i32(S::as_f32(S::pack_i8(quarters)));
                S::store_words(packed.as_mut_ptr().cast(), words);
            }
            assert!((0..64).all(|i| packed[i] == many[i].round_ties_even() as i8));
            let square: [[f32; LANES]; LANES] =
                std::array::from_fn(|j| std::array::from_fn(|i| f32::from_bits((100 * j + i) as u32 | 0x7f80_0000)));
            unsafe {
                let columns = S::transpose(square.map(|row| S::load(row.as_ptr())));
                for (i, column) in columns.into_iter().enumerate() {
                    let column = lanes::<S>(column);
                    assert!((0..LANES).all(|j| column[j].to_bits() == square[j][i].to_bits()));
                }
            }
        }
        on_all!(check);
    }

    #[test]
    fn reduces_selects_and_moves_parts() {
        #[inline(always)]
        unsafe fn check<S: Simd>() {
            let values: [f32; LANES] = std::array::from_fn(|i| 1.0 + 1e-7 * (i * i) as f32 - (i % 3) as f32);
            let mut tree = values;
            for width in [8, 4, 2, 1] {
                for i in 0..width {
                    tree[i] += tree[i + width];
                }
            }
            unsafe {
                let v = S::load(values.as_ptr());
                assert_eq!(S::reduce_add(v).to_bits(), tree[0].to_bits());
                assert_eq!(S::reduce_max(v), values.into_iter().fold(f32::MIN, f32::max));
                let range = lanes::<S>(S::select_range(3, 9, v, S::splat(-9.0)));
                assert!((0..LANES).all(|i| range[i] == if (3..9).contains(&i) { values[i] } else { -9.0 }));
                for n in [0, 1, 5, 8, 13, 16] {
                    let part = lanes::<S>(S::load_partial(values.as_ptr(), n));
                    assert!((0..LANES).all(|i| part[i] == if i < n { values[i] } else { 0.0 }));
                    let mut out = [7.0f32; LANES];
                    S::store_partial(out.as_mut_ptr(), v, n);
                    assert!((0..LANES).all(|i| out[i] == if i < n { values[i] } else { 7.0 }));
                }
                let nan = S::splat(f32::NAN);
                assert!(lanes::<S>(S::max(v, nan))[0].is_nan() && lanes::<S>(S::min(v, nan))[15].is_nan());
                assert_eq!(lanes::<S>(S::max(nan, v)), values);
                assert_eq!(lanes::<S>(S::min(nan, v)), values);
            }
        }
        on_all!(check);
    }
}
