//! The table of kernels of each instruction set: where generic code becomes machine code.
//!
//! A kernel is one `inline(always)` function generic over [`Simd`](crate::simd::Simd). [`table!`] wraps it in a function
//! compiled with the instruction set's features, once a set, and collects the wrappers. The choice is made once, when
//! the backend is made; nothing below looks at features again.

use rustllm_ops::{Activation, DType, KvCacheDType};

use crate::Isa;
use crate::attention::{AttentionTask, Tiles};
use crate::attention_tile::{CacheBf16, CacheF16, CacheF32, CacheInt8, Rows, Step};
use crate::gemm::{Bf16, F16, F32, LinearTask};
use crate::simd::*;

/// Declares the struct of function pointers and, for one instruction set, its filling.
macro_rules! tables {
    ($($name:ident = $module:ident::$kernel:ident $(<$param:ident>)? ($($arg:ident: $ty:ty),*);)*) => {
        /// Kernels compiled for one instruction set. Each is unsafe as its generic source says.
        #[derive(Debug, Clone, Copy)]
        pub(crate) struct Kernels {
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
                    pub(super) const KERNELS: Kernels = Kernels { $($name,)* };
                }
            };
        }
    };
}

tables! {
    linear_f32 = gemm::linear<F32>(task: &LinearTask);
    linear_f16 = gemm::linear<F16>(task: &LinearTask);
    linear_bf16 = gemm::linear<Bf16>(task: &LinearTask);
    widen_f16 = gemm::widen<F16>(weights: *const u8, panel_bytes: usize, panels: usize, k: usize, to: *mut f32);
    widen_bf16 = gemm::widen<Bf16>(weights: *const u8, panel_bytes: usize, panels: usize, k: usize, to: *mut f32);
    multiply_adds = probe::multiply_adds(iterations: usize, to: *mut f32);
    read = probe::read(from: *const f32, n: usize, to: *mut f32);
    round_f16 = gemm::round_f16(x: *const f32, to: *mut f32, n: usize, padded: usize);
    round_bf16 = gemm::round_bf16(x: *const f32, to: *mut f32, n: usize, padded: usize);
    narrow_bf16 = gemm::narrow_bf16(x: *const f32, to: *mut u16, n: usize, padded: usize);
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
    quantize_int8 = kv_cache::quantize_int8(x: *const f32, n: usize, to: *mut i8, stride: usize, scale: *mut f32);
    rms_norm = norm::rms_norm(x: *const f32, weight: *const f32, to: *mut f32, n: usize, eps: f32);
    layer_norm = norm::layer_norm(x: *const f32, weight: *const f32, bias: *const f32, to: *mut f32, n: usize, eps: f32);
    add_assign = elementwise::add_assign(x: *mut f32, y: *const f32, n: usize);
    activation = elementwise::activation(kind: Activation, x: *const f32, to: *mut f32, n: usize);
    gated_activation =
        elementwise::gated_activation(kind: Activation, gate: *const f32, up: *const f32, to: *mut f32, n: usize);
    rotary = elementwise::rotary(x: *mut f32, cos: *const f32, sin: *const f32, half: usize);
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

/// AVX-512's kernels, but for the linear layers that have an instruction of their own.
#[cfg(target_arch = "x86_64")]
mod avx512bf16 {
    use super::*;
    use crate::gemm::Bf16Dot;

    #[target_feature(enable = "avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn linear_bf16(task: &LinearTask) {
        // SAFETY: the caller keeps the kernel's contract and has the features.
        unsafe { crate::gemm::linear::<Avx512, Bf16Dot>(task) }
    }

    pub(super) const KERNELS: Kernels = Kernels { linear_bf16, ..avx512::KERNELS };
}

impl Kernels {
    /// The kernels of an instruction set, if they are compiled in.
    pub(crate) fn of(isa: Isa) -> Option<&'static Self> {
        match isa {
            Isa::Scalar => Some(&scalar::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&avx2::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&avx512::KERNELS),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512Bf16 => Some(&avx512bf16::KERNELS),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&neon::KERNELS),
            #[allow(unreachable_patterns, reason = "which sets are compiled in depends on the architecture")]
            _ => None,
        }
    }

    /// The linear kernel for weights of `dtype`.
    pub(crate) fn linear(&self, dtype: DType) -> unsafe fn(&LinearTask) {
        match dtype {
            DType::F32 => self.linear_f32,
            DType::F16 => self.linear_f16,
            DType::BF16 => self.linear_bf16,
        }
    }

    /// The kernels of attention's register tiles for a cache of `dtype`.
    pub(crate) fn attention_tiles(&self, dtype: KvCacheDType) -> Tiles {
        let (score, weigh) = match dtype {
            KvCacheDType::F32 => (self.score_f32, self.weigh_f32),
            KvCacheDType::F16 => (self.score_f16, self.weigh_f16),
            KvCacheDType::BF16 => (self.score_bf16, self.weigh_bf16),
            KvCacheDType::Int8 => (self.score_int8, self.weigh_int8),
        };
        Tiles { score, weigh, score_wide: self.score_f32, weigh_wide: self.weigh_f32 }
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
