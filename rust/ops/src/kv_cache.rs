use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use crate::quantize::int8_row;
use crate::{DType, KvCacheGroup, KvCacheKind, Storage};

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KvCacheSpec {
    /// Attention layers, each with keys and values of its own, by the blocks they have in common.
    pub groups: Vec<KvCacheGroup>,
    /// Tokens a block holds.
    pub block_size: usize,
    /// Blocks in the pool, shared by all groups: a block holds the layers of the group that uses it.
    pub num_blocks: usize,
    /// Element type of keys and values.
    pub dtype: KvCacheDType,
}

impl KvCacheSpec {
    /// Attention layers of all groups.
    pub fn num_layers(&self) -> usize {
        self.groups.iter().map(|group| group.layers.len()).sum()
    }

    /// What a block takes where a layer of a kind takes `layer`: as much as the largest group's layers.
    pub fn block_size_of(&self, layer: impl Fn(&KvCacheKind) -> usize) -> usize {
        self.groups.iter().map(|group| group.layers.len().saturating_mul(layer(&group.kind))).max().unwrap_or(0)
    }
}

/// Keys and values of every layer, in blocks of [`KvCacheSpec::block_size`] tokens.
///
/// Token `i` of a sequence lives in slot `block_table[i / block_size] * block_size + i % block_size` of every layer, by
/// the block table of the layer's group.
#[derive(Debug)]
pub struct KvCache {
    spec: Arc<KvCacheSpec>,
    layers: Vec<KvCacheLayer>,
}

impl KvCache {
    /// A cache for `spec`, with the storage that `place` gives a layer of a kind that is the n-th of its group. For backends.
    pub fn new(spec: Arc<KvCacheSpec>, place: impl Fn(&KvCacheKind, usize) -> Arc<dyn Storage>) -> Self {
        let mut layers: Vec<(usize, KvCacheLayer)> = Vec::with_capacity(spec.num_layers());
        for (group, KvCacheGroup { kind, layers: members }) in spec.groups.iter().enumerate() {
            layers.extend(
                members.iter().enumerate().map(|(n, layer)| {
                    (*layer, KvCacheLayer { spec: Arc::clone(&spec), group, storage: place(kind, n) })
                }),
            );
        }
        layers.sort_by_key(|(layer, _)| *layer);
        debug_assert!(layers.iter().map(|(layer, _)| *layer).eq(0..layers.len()), "every layer is in one group");
        Self { spec, layers: layers.into_iter().map(|(_, layer)| layer).collect() }
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
    pub spec: Arc<KvCacheSpec>,
    /// Which of `spec.groups` the layer is in, and with it whose block tables are its own.
    pub group: usize,
    /// The layer's place in every block.
    pub storage: Arc<dyn Storage>,
}

impl KvCacheLayer {
    /// What the layer keeps.
    pub fn kind(&self) -> &KvCacheKind {
        &self.spec.groups[self.group].kind
    }
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
