use std::fmt;
use std::str::FromStr;

/// Element type of a checkpoint tensor, a weight or a KV cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE 754 single precision.
    F32,
    /// IEEE 754 half precision.
    F16,
    /// bfloat16: the upper half of an `F32`.
    BF16,
}

impl DType {
    /// Bytes an element takes.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
        }
    }

    /// The name users and configuration files write: `float32`, `float16` or `bfloat16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }

    /// The nearest value of this dtype, as an `f32` (ties to even).
    pub fn round(self, value: f32) -> f32 {
        match self {
            Self::F32 => value,
            Self::F16 => half::f16::from_f32(value).to_f32(),
            Self::BF16 => half::bf16::from_f32(value).to_f32(),
        }
    }

    /// Decodes little-endian elements of this dtype to `f32`.
    pub fn decode(self, bytes: &[u8]) -> Vec<f32> {
        match self {
            Self::F32 => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Self::F16 => bytes.as_chunks().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect(),
            Self::BF16 => bytes.as_chunks().0.iter().map(|b| half::bf16::from_le_bytes(*b).to_f32()).collect(),
        }
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for DType {
    type Err = String;

    /// Reads the spellings of Hugging Face configurations and vLLM's `dtype` argument.
    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "float32" | "float" => Ok(Self::F32),
            "float16" | "half" => Ok(Self::F16),
            "bfloat16" => Ok(Self::BF16),
            other => Err(format!("dtype must be one of float32, float16, bfloat16, got {other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_what_it_rounds() {
        let values = [1.0f32, -0.333_333_34, 6.1e-5, 65504.0, 3.1];
        let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
        let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
        assert_eq!(DType::F16.decode(&f16), values.map(|v| DType::F16.round(v)));
        assert_eq!(DType::BF16.decode(&bf16), values.map(|v| DType::BF16.round(v)));
        assert_ne!(DType::BF16.round(3.1), 3.1);
    }

    #[test]
    fn names_an_unknown_dtype_and_the_allowed_ones() {
        let error = "int3".parse::<DType>().unwrap_err();
        assert_eq!(error, "dtype must be one of float32, float16, bfloat16, got \"int3\"");
    }
}
