use super::fields::Fields;
use crate::LoadError;

type Result<T> = std::result::Result<T, LoadError>;

/// How weights in FP8 share their scales, where a matrix has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fp8Config {
    /// Rows that have one in common.
    pub block_rows: usize,
    /// Columns that have.
    pub block_cols: usize,
}

impl Default for Fp8Config {
    fn default() -> Self {
        Self { block_rows: 128, block_cols: 128 }
    }
}

const NAME: &str = "quantization_config";

/// The fields without `quantization_config`, and what it says, where that is FP8 in a form that is unpacked while loading. Others
/// are left for the families to refuse.
pub(super) fn take_fp8(fields: &Fields) -> Result<(Fields, Option<Fp8Config>)> {
    let Some(quantization) = fields.object(NAME)? else { return Ok((fields.clone(), None)) };
    let fp8 = match quantization.text("quant_method")? {
        Some("fp8") => fp8(&quantization)?,
        Some("compressed-tensors") if quantization.text("format")? == Some("float-quantized") => {
            compressed_tensors(&quantization)?
        }
        _ => return Ok((fields.clone(), None)),
    };
    Ok((fields.clone().without(NAME), Some(fp8)))
}

/// What transformers writes, and DeepSeek-V3 and Qwen3 are published with.
fn fp8(quantization: &Fields) -> Result<Fp8Config> {
    if !matches!(quantization.text("fmt")?, None | Some("e4m3" | "float8_e4m3fn")) {
        return Err(quantization.invalid("fmt", "e4m3"));
    }
    block(quantization, "weight_block_size")
}

/// What llm-compressor writes: a scale for each matrix, row or block.
fn compressed_tensors(quantization: &Fields) -> Result<Fp8Config> {
    if quantization.object("kv_cache_scheme")?.is_some() {
        return Err(quantization.invalid("kv_cache_scheme", "null"));
    }
    let groups = quantization.object("config_groups")?.ok_or_else(|| quantization.missing("config_groups"))?;
    let mut found = Fp8Config::default();
    for name in groups.names() {
        let group = groups.object(name)?.ok_or_else(|| groups.missing(name))?;
        let weights = group.object("weights")?.ok_or_else(|| group.missing("weights"))?;
        if weights.text("type")? != Some("float") {
            return Err(weights.invalid("type", "float"));
        }
        weights.size("num_bits", 8..=8)?;
        if !matches!(weights.text("strategy")?, Some("tensor" | "channel" | "block")) {
            return Err(weights.invalid("strategy", "one of tensor, channel, block"));
        }
        found = block(&weights, "block_structure")?;
    }
    Ok(found)
}

/// Rows and columns of a block.
fn block(fields: &Fields, name: &str) -> Result<Fp8Config> {
    match fields.sizes(name)?.as_deref() {
        None => Ok(Fp8Config::default()),
        Some([block_rows, block_cols]) => Ok(Fp8Config { block_rows: *block_rows, block_cols: *block_cols }),
        Some(_) => Err(fields.invalid(name, "two whole numbers above 0")),
    }
}
