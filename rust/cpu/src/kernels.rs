//! The table of kernels of each instruction set: where generic code becomes machine code.
//!
//! A kernel is one `inline(always)` function generic over [`Simd`](crate::simd::Simd). [`table!`] wraps it in a function
//! compiled with the instruction set's features, once a set, and collects the wrappers. The choice is made once, when
//! the backend is made; nothing below looks at features again.

use rustllm_ops::{Activation, DType, KvCacheDType, WeightFormat};

use crate::Isa;
use crate::argmax::Largest;
use crate::attention::{self, AttentionTask};
use crate::attention_tile::{CacheBf16, CacheF16, CacheF32, CacheInt8, Rows, Step};
use crate::gemm::{
    Bf16, F16, F32, InputsTask, Int4, Int8, LinearTask, PlainF32, Quantized, RoundedBf16, RoundedF16, Widening,
};
use crate::simd::*;

/// Computes a share of a linear layer, as [`LinearTask`] says.
pub(crate) type LinearKernel = unsafe fn(&LinearTask);

/// Declares the struct of function pointers and, for one instruction set, its filling.
macro_rules! tables {
    ($($name:ident = $module:ident::$kernel:ident $(<$param:ty>)? ($($arg:ident: $ty:ty),*);)*) => {
        /// Kernels compiled for one instruction set. Each is unsafe as its generic source says.
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct Kernels {
            tiles: Tiles,
            grouped_tiles: Tiles,
            /// Activations of two elements a word for bfloat16 weights.
            pub(crate) pairs_bf16: bool,
            $(pub(crate) $name: unsafe fn($($ty),*),)*
        }

        /// The table of one instruction set.
        macro_rules! table {
            ($isa:ident, $simd:ident, $features:literal) => {
                mod $isa {
                    use super::*;
                    $(
                        #[target_feature(enable = $features)]
                        unsafe fn $name($($arg: $ty),*) {
                            // SAFETY: the caller keeps the kernel's contract and has the features.
                            unsafe { crate::$module::$kernel::<$simd $(, $param)?>($($arg),*) }
                        }
                    )*
                    pub(super) const KERNELS: Kernels = Kernels {
                        tiles: $simd::TILES,
                        grouped_tiles: $simd::GROUPED_TILES,
                        pairs_bf16: false,
                        $($name,)*
                    };
                }
            };
        }
    };
}

tables! {
    linear_f32 = gemm::linear<F32>(task: &LinearTask);
    linear_f16 = gemm::linear<F16>(task: &LinearTask);
    linear_bf16 = gemm::linear<Bf16>(task: &LinearTask);
    linear_int8 = gemm::linear<Int8<Widening>>(task: &LinearTask);
    linear_int4 = gemm::linear<Int4<false, Widening>>(task: &LinearTask);
    linear_int4_zeros = gemm::linear<Int4<true, Widening>>(task: &LinearTask);
    inputs_f32 = gemm::pack_inputs<PlainF32>(task: &InputsTask);
    inputs_f16 = gemm::pack_inputs<RoundedF16>(task: &InputsTask);
    inputs_bf16 = gemm::pack_inputs<RoundedBf16>(task: &InputsTask);
    inputs_int8 = gemm::pack_inputs<Quantized>(task: &InputsTask);
    decode_row = pack::decode_row(dtype: DType, from: *const u8, n: usize, to: *mut f32);
    quantize_int8 = pack::quantize_int8(x: *const f32, n: usize, to: *mut u32, scale: *mut f32);
    quantize_int4 = pack::quantize_int4(
        x: *const f32, n: usize, group_size: usize, symmetric: bool, to: *mut u32, scale: &mut u16, zero: &mut u8);
    transpose_words = pack::transpose_words(from: *const u32, stride: usize, words: usize, to: *mut u8);
    split_pairs = pack::split_pairs(lines: *mut u8, words: usize);
    byte_dots = probe::byte_dots<Widening>(iterations: usize, to: *mut f32);
    multiply_adds = probe::multiply_adds(iterations: usize, to: *mut f32);
    read = probe::read(from: *const f32, n: usize, to: *mut f32);
    attention_f32 = attention::attention<CacheF32>(task: &AttentionTask);
    attention_f16 = attention::attention<CacheF16>(task: &AttentionTask);
    attention_bf16 = attention::attention<CacheBf16>(task: &AttentionTask);
    attention_int8 = attention::attention<CacheInt8>(task: &AttentionTask);
    score_f32 = attention_tile::score<CacheF32>(rows: &Rows, step: &Step, first: usize, last: usize);
    score_f16 = attention_tile::score<CacheF16>(rows: &Rows, step: &Step, first: usize, last: usize);
    score_bf16 = attention_tile::score<CacheBf16>(rows: &Rows, step: &Step, first: usize, last: usize);
    score_int8 = attention_tile::score<CacheInt8>(rows: &Rows, step: &Step, first: usize, last: usize);
    weigh_f32 = attention_tile::weigh<CacheF32>(rows: &Rows, step: &Step, first: usize, last: usize);
    weigh_f16 = attention_tile::weigh<CacheF16>(rows: &Rows, step: &Step, first: usize, last: usize);
    weigh_bf16 = attention_tile::weigh<CacheBf16>(rows: &Rows, step: &Step, first: usize, last: usize);
    weigh_int8 = attention_tile::weigh<CacheInt8>(rows: &Rows, step: &Step, first: usize, last: usize);
    combine_attention = attention::combine(task: &AttentionTask);
    quantize_head = kv_cache::quantize_head(x: *const f32, n: usize, to: *mut i8, stride: usize, scale: *mut f32);
    rms_norm = norm::rms_norm(x: *const f32, weight: *const f32, to: *mut f32, n: usize, eps: f32);
    layer_norm = norm::layer_norm(x: *const f32, weight: *const f32, bias: *const f32, to: *mut f32, n: usize, eps: f32);
    add_assign = elementwise::add_assign(x: *mut f32, y: *const f32, n: usize);
    add_scaled = elementwise::add_scaled(x: *mut f32, y: *const f32, factor: f32, n: usize);
    scale = elementwise::scale(x: *mut f32, factor: f32, n: usize);
    soft_cap = elementwise::soft_cap(x: *mut f32, cap: f32, n: usize);
    activation = elementwise::activation(kind: Activation, x: *const f32, to: *mut f32, n: usize);
    gated_activation =
        elementwise::gated_activation(kind: Activation, gate: *const f32, up: *const f32, to: *mut f32, n: usize);
    clamped_swiglu = elementwise::clamped_swiglu(
        alpha: f32, limit: f32, gate: *const f32, up: *const f32, to: *mut f32, n: usize);
    rotary = elementwise::rotary(x: *mut f32, cos: *const f32, sin: *const f32, half: usize);
    argmax = argmax::argmax(x: *const f32, n: usize, first: usize, to: *mut Largest);
    clamp = elementwise::clamp(x: *mut f32, limit: f32, n: usize);
}

// The features every machine of the architecture has.
#[cfg(target_arch = "x86_64")]
table!(scalar, Scalar, "sse2");
#[cfg(target_arch = "aarch64")]
table!(scalar, Scalar, "neon");
#[cfg(target_arch = "x86_64")]
table!(avx2, Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
table!(avx512, Avx512, "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");
#[cfg(target_arch = "aarch64")]
table!(neon, Neon, "neon");

/// The kernels of `$base`, but for the integer linear layers, which have `vpdpbusd`.
#[cfg(target_arch = "x86_64")]
macro_rules! table_with_byte_dots {
    ($isa:ident, $base:ident, $simd:ident, $features:literal) => {
        mod $isa {
            use super::*;
            use crate::gemm::{Vnni, linear};

            #[target_feature(enable = $features)]
            unsafe fn linear_int8(task: &LinearTask) {
                // SAFETY: the caller keeps the kernel's contract and has the features.
                unsafe { linear::<$simd, Int8<Vnni>>(task) }
            }

            #[target_feature(enable = $features)]
            unsafe fn linear_int4(task: &LinearTask) {
                // SAFETY: as above.
                unsafe { linear::<$simd, Int4<false, Vnni>>(task) }
            }

            #[target_feature(enable = $features)]
            unsafe fn linear_int4_zeros(task: &LinearTask) {
                // SAFETY: as above.
                unsafe { linear::<$simd, Int4<true, Vnni>>(task) }
            }

            #[target_feature(enable = $features)]
            unsafe fn byte_dots(iterations: usize, to: *mut f32) {
                // SAFETY: as above.
                unsafe { crate::probe::byte_dots::<$simd, Vnni>(iterations, to) }
            }

            pub(super) const KERNELS: Kernels =
                Kernels { linear_int8, linear_int4, linear_int4_zeros, byte_dots, ..$base::KERNELS };
        }
    };
}

#[cfg(target_arch = "x86_64")]
table_with_byte_dots!(avxvnni, avx2, Avx2, "avxvnni,avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
table_with_byte_dots!(avx512vnni, avx512, Avx512, "avx512vnni,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c");

/// AVX-512's with byte dots, and the linear layer of bfloat16.
#[cfg(target_arch = "x86_64")]
mod avx512bf16 {
    use super::*;
    use crate::gemm::{Bf16Dot, PairsBf16, linear, pack_inputs};

    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn linear_bf16(task: &LinearTask) {
        // SAFETY: the caller keeps the kernel's contract and has the features.
        unsafe { linear::<Avx512, Bf16Dot>(task) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn inputs_bf16(task: &InputsTask) {
        // SAFETY: as above.
        unsafe { pack_inputs::<Avx512, PairsBf16>(task) }
    }

    pub(super) const KERNELS: Kernels = Kernels { pairs_bf16: true, linear_bf16, inputs_bf16, ..avx512vnni::KERNELS };
}

impl Kernels {
    /// The kernels of an instruction set, if they are compiled in.
    pub(crate) fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::AvxVnni => Some(&avxvnni::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Vnni => Some(&avx512vnni::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Some(&avx512bf16::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&neon::KERNELS),
            #[allow(unreachable_patterns, reason = "which sets are compiled in depends on the architecture")]
            _ => None,
        }
    }

    /// The register tiles of a linear layer in `format`.
    pub(crate) fn tiles(&self, format: WeightFormat) -> &Tiles {
        match format {
            WeightFormat::Int4 { .. } => &self.grouped_tiles,
            WeightFormat::Dense(_) | WeightFormat::Int8 => &self.tiles,
        }
    }

    /// The linear kernel for weights in `format`.
    pub(crate) fn linear(&self, format: WeightFormat) -> LinearKernel {
        match format {
            WeightFormat::Dense(DType::F32) => self.linear_f32,
            WeightFormat::Dense(DType::F16) => self.linear_f16,
            WeightFormat::Dense(DType::BF16) => self.linear_bf16,
            WeightFormat::Int8 => self.linear_int8,
            WeightFormat::Int4 { symmetric: true, .. } => self.linear_int4,
            WeightFormat::Int4 { symmetric: false, .. } => self.linear_int4_zeros,
        }
    }

    /// What packs activations for weights in `format`.
    pub(crate) fn inputs(&self, format: WeightFormat) -> unsafe fn(&InputsTask) {
        match format {
            WeightFormat::Dense(DType::F32) => self.inputs_f32,
            WeightFormat::Dense(DType::F16) => self.inputs_f16,
            WeightFormat::Dense(DType::BF16) => self.inputs_bf16,
            WeightFormat::Int8 | WeightFormat::Int4 { .. } => self.inputs_int8,
        }
    }

    /// The kernels of attention's register tiles for a cache of `dtype`.
    pub(crate) fn attention_tiles(&self, dtype: KvCacheDType) -> attention::Tiles {
        let (score, weigh) = match dtype {
            KvCacheDType::F32 => (self.score_f32, self.weigh_f32),
            KvCacheDType::F16 => (self.score_f16, self.weigh_f16),
            KvCacheDType::BF16 => (self.score_bf16, self.weigh_bf16),
            KvCacheDType::Int8 => (self.score_int8, self.weigh_int8),
        };
        attention::Tiles { score, weigh, score_wide: self.score_f32, weigh_wide: self.weigh_f32 }
    }

    /// The attention kernel for a cache of `dtype`.
    pub(crate) fn attention(&self, dtype: KvCacheDType) -> unsafe fn(&AttentionTask) {
        match dtype {
            KvCacheDType::F32 => self.attention_f32,
            KvCacheDType::F16 => self.attention_f16,
            KvCacheDType::BF16 => self.attention_bf16,
            KvCacheDType::Int8 => self.attention_int8,
        }
    }
}
