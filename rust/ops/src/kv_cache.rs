use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::quantize::int8_row;
use crate::{DType, Storage};

/// How keys and values are kept in a cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KvCacheDType {
    /// As [`DType::F32`].
    F32,
    /// As [`DType::F16`].
    F16,
    /// As [`DType::BF16`].
    BF16,
    /// Bytes from -127 to 127 with a float32 scale for each token's key in each head, and one for its value: see
    /// [`int8_row`].
    Int8,
}

impl KvCacheDType {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::F32, Self::F16, Self::BF16, Self::Int8];

    /// Bytes an element takes, without scales.
    pub const fn size(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 | Self::BF16 => 2,
            Self::Int8 => 1,
        }
    }

    /// Bytes of scales that every key and every value of a head takes besides its elements.
    pub const fn scale_size(self) -> usize {
        match self {
            Self::F32 | Self::F16 | Self::BF16 => 0,
            Self::Int8 => size_of::<f32>(),
        }
    }

    /// The name users write: `float32`, `float16`, `bfloat16` or `int8`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => DType::F32.name(),
            Self::F16 => DType::F16.name(),
            Self::BF16 => DType::BF16.name(),
            Self::Int8 => "int8",
        }
    }

    /// Replaces a head's key or value by what a cache of this dtype gives back.
    pub fn round(self, values: &mut [f32]) {
        let dtype = match self {
            Self::F32 => return,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::Int8 => {
                let quantized = int8_row(values);
                values.iter_mut().zip(quantized.values()).for_each(|(to, value)| *to = value);
                return;
            }
        };
        for value in values {
            *value = dtype.round(*value);
        }
    }
}

impl From<DType> for KvCacheDType {
    fn from(dtype: DType) -> Self {
        match dtype {
            DType::F32 => Self::F32,
            DType::F16 => Self::F16,
            DType::BF16 => Self::BF16,
        }
    }
}

impl fmt::Display for KvCacheDType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KvCacheDType {
    type Err = String;

    /// Reads the spellings of vLLM's `kv_cache_dtype` argument.
    fn from_str(name: &str) -> Result<Self, String> {
        if let Ok(dtype) = name.parse::<DType>() {
            return Ok(dtype.into());
        }
        match name {
            "int8" | "int8_per_token_head" => Ok(Self::Int8),
            other => Err(format!("kv_cache_dtype must be one of float32, float16, bfloat16, int8, got {other:?}")),
        }
    }
}

/// Size and element type of a paged key/value cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Attention layers, each with keys and values of its own.
    pub num_layers: usize,
    /// Key/value heads of a layer.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Tokens a block holds.
    pub block_size: usize,
    /// Blocks in the pool, shared by all layers: block `b` is block `b` in each.
    pub num_blocks: usize,
    /// Element type of keys and values.
    pub dtype: KvCacheDType,
}

/// Keys and values of every layer, in blocks of [`KvCacheSpec::block_size`] tokens.
///
/// Token `i` of a sequence lives in slot `block_table[i / block_size] * block_size + i % block_size` of every layer.
#[derive(Debug)]
pub struct KvCache {
    spec: KvCacheSpec,
    layers: Vec<KvCacheLayer>,
}

impl KvCache {
    /// A cache of `spec.num_layers` layers. For backends.
    pub fn new(spec: KvCacheSpec, layers: Vec<KvCacheLayer>) -> Self {
        debug_assert_eq!(spec.num_layers, layers.len());
        Self { spec, layers }
    }

    /// What the cache was made for.
    pub fn spec(&self) -> &KvCacheSpec {
        &self.spec
    }

    /// Layer `index`'s keys and values.
    pub fn layer(&self, index: usize) -> &KvCacheLayer {
        &self.layers[index]
    }
}

/// One layer's keys and values, in a layout of the backend's own.
#[derive(Debug, Clone)]
pub struct KvCacheLayer {
    /// The cache's spec.
    pub spec: KvCacheSpec,
    /// The blocks.
    pub storage: Arc<dyn Storage>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_it_gives_and_names_the_allowed_ones() {
        for dtype in KvCacheDType::ALL {
            assert_eq!(dtype.name().parse(), Ok(dtype));
        }
        assert_eq!("int8_per_token_head".parse(), Ok(KvCacheDType::Int8));
        let error = "fp8".parse::<KvCacheDType>().unwrap_err();
        assert_eq!(error, "kv_cache_dtype must be one of float32, float16, bfloat16, int8, got \"fp8\"");
    }

    #[test]
    fn zeros_stay_zero_and_defects_show() {
        let mut values = [0.0, -0.0, 0.0];
        KvCacheDType::Int8.round(&mut values);
        assert_eq!(values, [0.0; 3]);
        for defect in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut values = [1.0, defect, 2.0];
            KvCacheDType::Int8.round(&mut values);
            assert!(values.iter().all(|value| value.is_nan()));
        }
    }
}
