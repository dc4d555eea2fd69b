//! Which kernels this machine can run, and which are chosen.

use std::fmt;
use std::str::FromStr;

use crate::CpuError;

/// An instruction set the kernels are compiled for.
///
/// All give the same bits, for they compute the same sixteen lanes in the same order, and sums of integers are exact.
/// [`Isa::Avx512Bf16`] alone differs, in linear layers with bfloat16 weights: its dot-product instruction adds two products
/// at a time, without the intermediate rounding of a fused multiply-add, and treats subnormal inputs as zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Isa {
    /// Plain Rust, for any machine.
    Scalar,
    /// AVX2 with FMA and F16C: x86 since Haswell and Zen.
    Avx2,
    /// The same, and with dot products of bytes: Alder Lake, Zen 5 and later.
    AvxVnni,
    /// AVX-512 F, BW, DQ and VL: Skylake-SP, Zen 4 and later.
    Avx512,
    /// AVX-512 with dot products of bytes: Cascade Lake, Ice Lake and later.
    Avx512Vnni,
    /// The same, and with bfloat16 dot products: Cooper Lake, Sapphire Rapids, Zen 4 and later.
    Avx512Bf16,
    /// Advanced SIMD: every 64-bit Arm.
    Neon,
}

const ALL: [Isa; 7] = [Isa::Scalar, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Vnni, Isa::Avx512Bf16, Isa::Neon];

impl Isa {
    /// The name `RUSTLLM_ISA` knows it by.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::AvxVnni => "avxvnni",
            Self::Avx512 => "avx512",
            Self::Avx512Vnni => "avx512vnni",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Neon => "neon",
        }
    }

    /// Whether this machine can run it.
    #[cfg(target_arch = "x86_64")]
    pub fn is_available(self) -> bool {
        let avx2 =
            || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
        let avx512 = || {
            avx2()
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
        };
        let vnni = || avx512() && is_x86_feature_detected!("avx512vnni");
        match self {
            Self::Scalar => true,
            Self::Avx2 => avx2(),
            Self::AvxVnni => avx2() && is_x86_feature_detected!("avxvnni"),
            Self::Avx512 => avx512(),
            Self::Avx512Vnni => vnni(),
            Self::Avx512Bf16 => vnni() && is_x86_feature_detected!("avx512bf16"),
            Self::Neon => false,
        }
    }

    /// Whether this machine can run it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn is_available(self) -> bool {
        match self {
            Self::Scalar => true,
            Self::Neon => cfg!(target_arch = "aarch64"),
            Self::Avx2 | Self::AvxVnni | Self::Avx512 | Self::Avx512Vnni | Self::Avx512Bf16 => false,
        }
    }

    /// Itself, if this machine can run it.
    ///
    /// # Errors
    /// [`CpuError::UnavailableIsa`] with what the machine has.
    pub fn require(self) -> Result<Self, CpuError> {
        if self.is_available() {
            Ok(self)
        } else {
            Err(CpuError::UnavailableIsa { isa: self, available: available_isas() })
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = CpuError;

    fn from_str(name: &str) -> Result<Self, CpuError> {
        ALL.into_iter().find(|isa| isa.name() == name).ok_or_else(|| CpuError::UnknownIsa(name.into()))
    }
}

/// The instruction sets this machine can run, slowest first.
pub fn available_isas() -> Vec<Isa> {
    ALL.into_iter().filter(|isa| isa.is_available()).collect()
}

/// The instruction set that `RUSTLLM_ISA` names, or the best this machine has.
///
/// # Errors
/// [`CpuError::UnknownIsa`] or [`CpuError::UnavailableIsa`] for what `RUSTLLM_ISA` says.
pub fn select_isa() -> Result<Isa, CpuError> {
    match std::env::var_os("RUSTLLM_ISA") {
        None => Ok(available_isas().last().copied().unwrap_or(Isa::Scalar)),
        Some(name) => name.to_string_lossy().parse::<Isa>()?.require(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_reads_back() {
        for isa in ALL {
            assert_eq!(isa.name().parse(), Ok(isa));
        }
    }

    #[test]
    fn an_unknown_or_unavailable_name_is_refused_with_the_choices() {
        let unknown = "sse9".parse::<Isa>().unwrap_err().to_string();
        assert_eq!(
            unknown,
            "RUSTLLM_ISA must be one of scalar, avx2, avxvnni, avx512, avx512vnni, avx512bf16, neon, got \"sse9\""
        );
        let foreign = if cfg!(target_arch = "aarch64") { Isa::Avx2 } else { Isa::Neon };
        let message = foreign.require().unwrap_err().to_string();
        assert!(message.starts_with(&format!("this machine cannot run {foreign} kernels, it has scalar")), "{message}");
    }
}
