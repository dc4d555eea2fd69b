//! How the weights of each format are read and multiplied.
//!
//! ```text
//!   a panel's group (16 outputs)   header                                    then, step by step
//!     float32, float16             -                                         16 elements of one k
//!     bfloat16                     -                                         16 x 2 elements of two k
//!     int8                         -                                         16 x 4 codes + 128, unsigned
//!     int4                         16 float16 scales, [16 byte zero points]  16 x 8 codes: k 0..4 low nibbles, 4..8 high
//!     int4, unpacked               16 float32 scales, [16 int32 zero points] 16 x 4 codes, unsigned
//! ```
//!
//! Integer products multiply unsigned codes with signed activations, as `vpdpbusd` does. What the codes' zero adds, zero times
//! the sum of the group's activations, is taken off where the integer sum starts.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: the contract of every function is `LinearTask`'s")]

use std::marker::PhantomData;

#[cfg(target_arch = "x86_64")]
use crate::simd::{Avx2, Avx512};
use crate::simd::{LANES, Simd};

/// A weight format against the activations it takes.
pub(crate) trait Product<S: Simd> {
    /// Words of activations a step takes.
    const WORDS: usize;
    /// Bytes of a panel's step.
    const W_BYTES: usize;
    /// Bytes before a group's steps.
    const HEADER: usize = 0;
    /// Steps of the innermost loop at a time; groups are a multiple of them. One prefetch goes with them all.
    const UNROLL: usize = 1;
    /// Whether activations are int8, with scales and offsets.
    const INTEGER: bool = false;
    /// Whether a group's sum is kept beside the sums so far until the group ends.
    const GROUPED: bool = false;
    /// Whether outputs have scales of their own.
    const COLUMN_SCALED: bool = false;
    /// Runs of rows from which unpacking a block costs less than it saves.
    const UNPACK_RUNS: usize = usize::MAX;

    /// What [`unpack`](Self::unpack) makes.
    type Wide: Product<S>;
    /// A group's header, in registers.
    type Header: Copy;
    /// A sum over a group.
    type Sum: Copy;
    /// A word of a row, in all lanes.
    type Inputs: Copy;
    /// A word of sixteen outputs.
    type Weights: Copy;

    /// Bytes of a group of a panel.
    fn group_bytes(group_words: usize) -> usize {
        Self::HEADER + group_words.div_ceil(Self::WORDS) * Self::W_BYTES
    }

    unsafe fn header(from: *const u8) -> Self::Header;
    unsafe fn weights(from: *const u8, part: usize) -> Self::Weights;
    unsafe fn inputs(from: *const u32) -> Self::Inputs;
    unsafe fn start(sum: S::V, header: Self::Header, offset: i32) -> Self::Sum;
    unsafe fn mul_add(x: Self::Inputs, w: Self::Weights, sum: Self::Sum) -> Self::Sum;
    unsafe fn finish(group: Self::Sum, header: Self::Header, sum: S::V) -> S::V;

    /// Unpacks `words` words of a panel.
    unsafe fn unpack(_from: *const u8, _words: usize, _group_words: usize, _to: *mut u8) {}
}

/// Float32 weights.
pub(crate) struct F32;
/// Half weights; activations are rounded to half and kept as float32.
pub(crate) struct F16;
/// bfloat16 weights; activations are rounded to bfloat16 and kept as float32.
pub(crate) struct Bf16;

/// The products of float32 vectors differ in how weights become one.
macro_rules! float32_product {
    ($name:ident, $words:literal words of $bytes:literal bytes, $(unpacked from $runs:literal runs,)?
     |$from:ident, $part:ident| $load:expr) => {
        impl<S: Simd> Product<S> for $name {
            const WORDS: usize = $words;
            const W_BYTES: usize = $bytes;
            $(const UNPACK_RUNS: usize = $runs;)?
            type Wide = F32;
            type Header = ();
            type Sum = S::V;
            type Inputs = S::V;
            type Weights = S::V;

            #[inline(always)]
            unsafe fn header(_from: *const u8) {}
            #[inline(always)]
            unsafe fn weights($from: *const u8, $part: usize) -> S::V {
                $load
            }
            #[inline(always)]
            unsafe fn inputs(from: *const u32) -> S::V {
                S::splat(f32::from_bits(*from))
            }
            #[inline(always)]
            unsafe fn start(sum: S::V, (): (), _offset: i32) -> S::V {
                sum
            }
            #[inline(always)]
            unsafe fn mul_add(x: S::V, w: S::V, sum: S::V) -> S::V {
                S::mul_add(x, w, sum)
            }
            #[inline(always)]
            unsafe fn finish(group: S::V, (): (), _sum: S::V) -> S::V {
                group
            }
            #[inline(always)]
            unsafe fn unpack(mut from: *const u8, words: usize, _group_words: usize, to: *mut u8) {
                let mut to = to.cast::<f32>();
                for _ in 0..words / $words {
                    for part in 0..$words {
                        S::store(to, <Self as Product<S>>::weights(from, part));
                        to = to.add(LANES);
                    }
                    from = from.add($bytes);
                }
            }
        }
    };
}

float32_product!(F32, 1 words of 64 bytes, |from, _part| S::load(from.cast()));
float32_product!(F16, 1 words of 32 bytes, unpacked from 4 runs, |from, _part| S::load_f16(from.cast()));
float32_product!(Bf16, 2 words of 64 bytes, unpacked from 4 runs, |from, part| {
    if part == 0 { S::load_bf16_even(from.cast()) } else { S::load_bf16_odd(from.cast()) }
});

/// bfloat16 weights and activations through `vdpbf16ps`.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Bf16Dot;

#[cfg(target_arch = "x86_64")]
impl Product<Avx512> for Bf16Dot {
    const WORDS: usize = 1;
    const W_BYTES: usize = 64;
    type Wide = Self;
    type Header = ();
    type Sum = std::arch::x86_64::__m512;
    type Inputs = std::arch::x86_64::__m512i;
    type Weights = std::arch::x86_64::__m512i;

    #[inline(always)]
    unsafe fn header(_from: *const u8) {}
    #[inline(always)]
    unsafe fn weights(from: *const u8, _part: usize) -> Self::Weights {
        std::arch::x86_64::_mm512_loadu_si512(from.cast())
    }
    #[inline(always)]
    unsafe fn inputs(from: *const u32) -> Self::Inputs {
        std::arch::x86_64::_mm512_set1_epi32(from.cast::<i32>().read())
    }
    #[inline(always)]
    unsafe fn start(sum: Self::Sum, (): (), _offset: i32) -> Self::Sum {
        sum
    }
    #[inline(always)]
    unsafe fn mul_add(x: Self::Inputs, w: Self::Weights, sum: Self::Sum) -> Self::Sum {
        use std::arch::x86_64::{__m512bh, __m512i, _mm512_dpbf16_ps};
        let as_pairs = |v: __m512i| std::mem::transmute::<__m512i, __m512bh>(v);
        _mm512_dpbf16_ps(sum, as_pairs(x), as_pairs(w))
    }
    #[inline(always)]
    unsafe fn finish(group: Self::Sum, (): (), _sum: Self::Sum) -> Self::Sum {
        group
    }
}

/// How four products of bytes are summed into a lane.
pub(crate) trait ByteDot<S: Simd> {
    /// As [`Simd::dot`].
    unsafe fn dot(w: S::I, x: S::I, sum: S::I) -> S::I;
}

/// Through products of 16 bits.
pub(crate) struct Widening;

impl<S: Simd> ByteDot<S> for Widening {
    #[inline(always)]
    unsafe fn dot(w: S::I, x: S::I, sum: S::I) -> S::I {
        S::dot(w, x, sum)
    }
}

/// Through `vpdpbusd`.
#[cfg(target_arch = "x86_64")]
pub(crate) struct Vnni;

#[cfg(target_arch = "x86_64")]
impl ByteDot<Avx512> for Vnni {
    #[inline(always)]
    unsafe fn dot(
        w: std::arch::x86_64::__m512i,
        x: std::arch::x86_64::__m512i,
        sum: std::arch::x86_64::__m512i,
    ) -> std::arch::x86_64::__m512i {
        std::arch::x86_64::_mm512_dpbusd_epi32(sum, w, x)
    }
}

#[cfg(target_arch = "x86_64")]
impl ByteDot<Avx2> for Vnni {
    #[inline(always)]
    unsafe fn dot(w: <Avx2 as Simd>::I, x: <Avx2 as Simd>::I, sum: <Avx2 as Simd>::I) -> <Avx2 as Simd>::I {
        Avx2::byte_dots(w, x, sum)
    }
}

/// int8 weights, a scale a row.
pub(crate) struct Int8<D>(PhantomData<D>);
/// int4 weights, a scale and perhaps a zero point a group.
pub(crate) struct Int4<const ZEROS: bool, D>(PhantomData<D>);
/// [`Int4`], unpacked to a byte a code.
pub(crate) struct Int4Wide<const ZEROS: bool, D>(PhantomData<D>);

/// The parts that integer products share.
macro_rules! integer_product {
    () => {
        const INTEGER: bool = true;
        type Sum = S::I;
        type Inputs = S::I;
        type Weights = S::I;

        #[inline(always)]
        unsafe fn inputs(from: *const u32) -> S::I {
            S::splat_i32(*from as i32)
        }
        #[inline(always)]
        unsafe fn mul_add(x: S::I, w: S::I, sum: S::I) -> S::I {
            D::dot(w, x, sum)
        }
    };
}

impl<S: Simd, D: ByteDot<S>> Product<S> for Int8<D> {
    const WORDS: usize = 1;
    const W_BYTES: usize = 64;
    const COLUMN_SCALED: bool = true;
    type Wide = Self;
    type Header = ();
    integer_product!();

    #[inline(always)]
    unsafe fn header(_from: *const u8) {}
    #[inline(always)]
    unsafe fn weights(from: *const u8, _part: usize) -> S::I {
        S::load_words(from)
    }
    #[inline(always)]
    unsafe fn start(_sum: S::V, (): (), offset: i32) -> S::I {
        S::splat_i32(offset)
    }
    #[inline(always)]
    unsafe fn finish(group: S::I, (): (), sum: S::V) -> S::V {
        S::add(S::to_f32(group), sum)
    }
}

/// Scales and zero points of a group; the latter are not looked at without `ZEROS`.
type GroupHeader<S> = (<S as Simd>::V, <S as Simd>::I);

/// The parts that both forms of int4 share.
macro_rules! int4_product {
    () => {
        const GROUPED: bool = true;
        type Wide = Int4Wide<ZEROS, D>;
        type Header = GroupHeader<S>;
        integer_product!();

        #[inline(always)]
        unsafe fn start(_sum: S::V, header: GroupHeader<S>, offset: i32) -> S::I {
            if ZEROS { S::mul_i32(header.1, S::splat_i32(offset)) } else { S::splat_i32(offset) }
        }
        #[inline(always)]
        unsafe fn finish(group: S::I, header: GroupHeader<S>, sum: S::V) -> S::V {
            S::mul_add(S::to_f32(group), header.0, sum)
        }
    };
}

impl<S: Simd, const ZEROS: bool, D: ByteDot<S>> Product<S> for Int4<ZEROS, D> {
    const WORDS: usize = 2;
    const W_BYTES: usize = 64;
    const HEADER: usize = if ZEROS { 48 } else { 32 };
    // Where a tile has one panel, nibbles are taken apart for few products: later it does not pay.
    const UNPACK_RUNS: usize = if S::GROUPED_TILES.panels[S::GROUPED_TILES.many] > 1 { 10 } else { 3 };
    int4_product!();

    #[inline(always)]
    unsafe fn header(from: *const u8) -> GroupHeader<S> {
        let zeros = if ZEROS { S::load_u8(from.add(32)) } else { S::splat_i32(0) };
        (S::load_f16(from.cast()), zeros)
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8, part: usize) -> S::I {
        if part == 0 { S::load_low_nibbles(from) } else { S::load_high_nibbles(from) }
    }
    #[inline(always)]
    unsafe fn unpack(mut from: *const u8, words: usize, group_words: usize, mut to: *mut u8) {
        for _ in 0..words / group_words {
            let (scales, zeros) = Self::header(from);
            from = from.add(<Self as Product<S>>::HEADER);
            S::store(to.cast(), scales);
            if ZEROS {
                S::store_words(to.add(64), zeros);
            }
            to = to.add(<Int4Wide<ZEROS, D> as Product<S>>::HEADER);
            for _ in 0..group_words / 2 {
                S::store_words(to, S::load_low_nibbles(from));
                S::store_words(to.add(64), S::load_high_nibbles(from));
                (from, to) = (from.add(64), to.add(128));
            }
        }
    }
}

impl<S: Simd, const ZEROS: bool, D: ByteDot<S>> Product<S> for Int4Wide<ZEROS, D> {
    const WORDS: usize = 1;
    const W_BYTES: usize = 64;
    const HEADER: usize = if ZEROS { 128 } else { 64 };
    const UNROLL: usize = 4;
    int4_product!();

    #[inline(always)]
    unsafe fn header(from: *const u8) -> GroupHeader<S> {
        let zeros = if ZEROS { S::load_words(from.add(64)) } else { S::splat_i32(0) };
        (S::load(from.cast()), zeros)
    }
    #[inline(always)]
    unsafe fn weights(from: *const u8, _part: usize) -> S::I {
        S::load_words(from)
    }
}
