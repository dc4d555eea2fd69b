use std::path::PathBuf;

use rustllm_core::SchedulingPolicy;
use rustllm_models::{Convert, PoolerOptions, Reduction, Runner};
use rustllm_ops::{DType, KvCacheDType, WeightFormat};
use serde_json::{Map, Value};

use crate::sampler::LogprobsMode;
use crate::{Device, InvalidArgument};

/// Tokens a step may compute where nothing else is said.
const DEFAULT_STEP_TOKENS: usize = 2048;

/// Bytes in a GiB.
pub const GIB: u64 = 1 << 30;

/// Arguments of an engine, by vLLM's names and with its defaults.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Folder with `config.json` and safetensors.
    pub model: PathBuf,
    /// Element type of weights; `None` takes the checkpoint's.
    pub dtype: Option<DType>,
    /// What linear layers are quantized to while they are loaded; `None` to keep them in `dtype`.
    pub quantization: Option<WeightFormat>,
    /// How keys and values are kept; `None` keeps them in the weights' element type.
    pub kv_cache_dtype: Option<KvCacheDType>,
    /// Where to compute.
    pub device: Device,
    /// Whether a GPU computes each row in an order of its own, so that answers do not depend on what is batched together. On the
    /// CPU they never do.
    pub deterministic: bool,
    /// Whether a GPU launches every kernel by itself, and captures no step as a graph.
    pub enforce_eager: bool,
    /// Whether a GPU may begin a step before the tokens of the one before it have reached the host.
    pub async_scheduling: bool,
    /// Longest prompt plus completion, in tokens; `None` takes the model's, or what the cache can hold if that is less.
    pub max_model_len: Option<usize>,
    /// Sequences that may run at once.
    pub max_num_seqs: usize,
    /// Tokens a step may compute, over all sequences; `None` takes 2048, or a longest prompt where prompts run whole.
    pub max_num_batched_tokens: Option<usize>,
    /// Tokens a cache block holds.
    pub block_size: usize,
    /// Number of cache blocks, whatever the memory.
    pub num_gpu_blocks_override: Option<usize>,
    /// Bytes of the cache; goes before `gpu_memory_utilization`.
    pub kv_cache_memory_bytes: Option<u64>,
    /// Share of the host's free memory that the cache may take once the weights are loaded; of a GPU, the share of all its memory
    /// that weights, activations and cache may take.
    pub gpu_memory_utilization: f64,
    /// Keep finished blocks and reuse them for equal prefixes.
    pub enable_prefix_caching: bool,
    /// Who runs first when not all can.
    pub scheduling_policy: SchedulingPolicy,
    /// Seed for requests that bring none.
    pub seed: u64,
    /// Compute threads; `None` for one a core this process may use.
    pub num_threads: Option<usize>,
    /// Most logprobs a request may ask for; -1 for the whole vocabulary.
    pub max_logprobs: i32,
    /// Which logprobs are returned.
    pub logprobs_mode: LogprobsMode,
    /// Fields that replace those of `config.json`.
    pub hf_overrides: Map<String, Value>,
    /// End-of-sequence tokens; `None` for the model folder's.
    pub eos_token_ids: Option<Vec<u32>>,
    /// What the model is run for.
    pub runner: Runner,
    /// What the model is made into.
    pub convert: Convert,
    /// What is asked of its pooler in place of what the model folder says.
    pub pooler: PoolerOptions,
}

impl EngineConfig {
    /// The defaults for the model in `model`.
    pub fn new(model: impl Into<PathBuf>) -> Self {
        Self {
            model: model.into(),
            dtype: None,
            quantization: None,
            kv_cache_dtype: None,
            device: Device::Auto,
            deterministic: false,
            enforce_eager: false,
            async_scheduling: true,
            max_model_len: None,
            max_num_seqs: 128,
            max_num_batched_tokens: None,
            block_size: 16,
            num_gpu_blocks_override: None,
            kv_cache_memory_bytes: None,
            gpu_memory_utilization: 0.92,
            enable_prefix_caching: true,
            scheduling_policy: SchedulingPolicy::Fcfs,
            seed: 0,
            num_threads: None,
            max_logprobs: 20,
            logprobs_mode: LogprobsMode::RawLogprobs,
            hf_overrides: Map::new(),
            eos_token_ids: None,
            runner: Runner::Auto,
            convert: Convert::Auto,
            pooler: PoolerOptions::default(),
        }
    }

    /// Reads vLLM's `quantization` argument and the options of `quantization_config`.
    ///
    /// # Errors
    /// A name other than `int8` and `int4`, a group size there are no groups of, or options without a scheme that has them.
    pub fn parse_quantization(
        name: Option<&str>,
        group_size: Option<usize>,
        symmetric: Option<bool>,
    ) -> Result<Option<WeightFormat>, InvalidArgument> {
        let refuse = |parameter: &str, value: String, allowed: &str| {
            let message = format!("{parameter} must be {allowed}, got {value}");
            Err(InvalidArgument::new(parameter, value, message))
        };
        let options = format!("group_size={group_size:?}, symmetric={symmetric:?}");
        match name {
            Some("int4") => {
                let (group_size, symmetric) = (group_size.unwrap_or(32), symmetric.unwrap_or(true));
                if !WeightFormat::GROUP_SIZES.contains(&group_size) {
                    return refuse("quantization_config.group_size", group_size.to_string(), "32, 64 or 128");
                }
                Ok(Some(WeightFormat::Int4 { group_size, symmetric }))
            }
            Some("int8") | None if group_size.is_some() || symmetric.is_some() => {
                refuse("quantization_config", options, "empty unless quantization is int4")
            }
            Some("int8") => Ok(Some(WeightFormat::Int8)),
            None => Ok(None),
            Some(other) => refuse("quantization", format!("{other:?}"), "None, int8 or int4"),
        }
    }

    /// Reads vLLM's `pooler_config`: a JSON object with `pooling_type` (`seq_pooling_type`) and `use_activation` (`normalize`).
    ///
    /// # Errors
    /// Another field, or a value that is not allowed.
    pub fn parse_pooler_config(json: Option<&str>) -> Result<PoolerOptions, InvalidArgument> {
        json.map_or(Ok(PoolerOptions::default()), read_pooler_config)
    }

    /// Checks every rule that needs no model.
    ///
    /// # Errors
    /// The first field out of range.
    pub fn verify(&self) -> Result<(), InvalidArgument> {
        let refuse = |parameter: &str, value: String, allowed: &str| {
            let message = format!("{parameter} must be {allowed}, got {value}");
            Err(InvalidArgument::new(parameter, value, message))
        };
        let counts = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.step_tokens(None)),
            ("max_model_len", self.max_model_len.unwrap_or(1)),
            ("num_gpu_blocks_override", self.num_gpu_blocks_override.unwrap_or(1)),
            ("num_threads", self.num_threads.unwrap_or(1)),
        ];
        for (parameter, value) in counts {
            if value == 0 || u32::try_from(value).is_err() {
                return refuse(parameter, value.to_string(), "between 1 and 4294967295");
            }
        }
        if self.block_size == 0 || !self.block_size.is_multiple_of(16) || self.block_size > 1024 {
            return refuse("block_size", self.block_size.to_string(), "a multiple of 16, at most 1024");
        }
        if !(self.gpu_memory_utilization > 0.0 && self.gpu_memory_utilization <= 1.0) {
            return refuse("gpu_memory_utilization", self.gpu_memory_utilization.to_string(), "in (0, 1]");
        }
        if self.kv_cache_memory_bytes == Some(0) {
            return refuse("kv_cache_memory_bytes", "0".into(), "at least one block's bytes");
        }
        if self.max_logprobs < -1 {
            return refuse("max_logprobs", self.max_logprobs.to_string(), "non-negative or -1");
        }
        let step_tokens = self.step_tokens(None);
        if step_tokens < self.max_num_seqs {
            let message = format!(
                "max_num_batched_tokens ({step_tokens}) must be greater than or equal to max_num_seqs ({})",
                self.max_num_seqs
            );
            return Err(InvalidArgument::new("max_num_batched_tokens", step_tokens, message));
        }
        Ok(())
    }

    /// Tokens a step may compute. `whole_prompts` is the longest of a model that computes a prompt in one step.
    pub(crate) fn step_tokens(&self, whole_prompts: Option<usize>) -> usize {
        self.max_num_batched_tokens.unwrap_or_else(|| whole_prompts.unwrap_or(0).max(DEFAULT_STEP_TOKENS))
    }
}

/// Reads vLLM's `pooler_config`, a JSON object.
fn read_pooler_config(json: &str) -> Result<PoolerOptions, InvalidArgument> {
    let refuse = |message: String| InvalidArgument::new("pooler_config", json, message);
    let fields: Map<String, Value> =
        serde_json::from_str(json).map_err(|error| refuse(format!("pooler_config must be a JSON object: {error}")))?;
    let mut options = PoolerOptions::default();
    for (name, value) in fields.iter().filter(|(_, value)| !value.is_null()) {
        match name.as_str() {
            "pooling_type" | "seq_pooling_type" => {
                let reduction = match value.as_str().map(str::to_uppercase).as_deref() {
                    Some("CLS") => Reduction::Cls,
                    Some("LAST") => Reduction::Last,
                    Some("MEAN") => Reduction::Mean,
                    Some("MAX") => Reduction::Max,
                    _ => {
                        let allowed = "one of CLS, LAST, MEAN, MAX";
                        return Err(refuse(format!("pooler_config.{name} must be {allowed}, got {value}")));
                    }
                };
                options.reduction = Some(reduction);
            }
            "normalize" | "use_activation" => {
                let flag = value.as_bool();
                let wrong = || refuse(format!("pooler_config.{name} must be true or false, got {value}"));
                options.finishes = Some(flag.ok_or_else(wrong)?);
            }
            _ => {
                let known = "pooling_type, seq_pooling_type, normalize, use_activation";
                return Err(refuse(format!("pooler_config has no field {name:?}, use {known}")));
            }
        }
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut EngineConfig)) -> String {
        let mut config = EngineConfig::new("model");
        change(&mut config);
        config.verify().unwrap_err().to_string()
    }

    #[test]
    fn a_step_holds_a_whole_prompt_unless_it_is_told_not_to() {
        let mut config = EngineConfig::new("model");
        assert_eq!(
            (config.step_tokens(None), config.step_tokens(Some(512)), config.step_tokens(Some(8192))),
            (2048, 2048, 8192)
        );
        config.max_num_batched_tokens = Some(300);
        assert_eq!((config.step_tokens(None), config.step_tokens(Some(8192))), (300, 300));
    }

    #[test]
    fn reads_quantization() {
        let parse = EngineConfig::parse_quantization;
        let int4 = |group_size, symmetric| Some(WeightFormat::Int4 { group_size, symmetric });
        assert_eq!(parse(None, None, None).unwrap(), None);
        assert_eq!(parse(Some("int8"), None, None).unwrap(), Some(WeightFormat::Int8));
        assert_eq!(parse(Some("int4"), None, None).unwrap(), int4(32, true));
        assert_eq!(parse(Some("int4"), Some(128), Some(false)).unwrap(), int4(128, false));
        let message = |result: Result<Option<WeightFormat>, InvalidArgument>| result.unwrap_err().to_string();
        assert_eq!(message(parse(Some("fp8"), None, None)), "quantization must be None, int8 or int4, got \"fp8\"");
        assert_eq!(
            message(parse(Some("int4"), Some(48), None)),
            "quantization_config.group_size must be 32, 64 or 128, got 48"
        );
        assert!(message(parse(Some("int8"), Some(32), None)).contains("empty unless quantization is int4"));
    }

    #[test]
    fn names_the_field_the_value_and_what_is_allowed() {
        assert_eq!(refused(|c| c.max_num_seqs = 0), "max_num_seqs must be between 1 and 4294967295, got 0");
        assert_eq!(refused(|c| c.block_size = 24), "block_size must be a multiple of 16, at most 1024, got 24");
        let nan = refused(|c| c.gpu_memory_utilization = f64::NAN);
        assert_eq!(nan, "gpu_memory_utilization must be in (0, 1], got NaN");
        assert_eq!(
            refused(|c| c.max_num_batched_tokens = Some(64)),
            "max_num_batched_tokens (64) must be greater than or equal to max_num_seqs (128)"
        );
        assert!(EngineConfig::new("model").verify().is_ok());
    }

    #[test]
    fn reads_a_pooler_config() {
        let options = read_pooler_config(r#"{"pooling_type": "mean", "use_activation": false, "dimensions": null}"#);
        let options = options.unwrap();
        assert_eq!((options.reduction, options.finishes), (Some(Reduction::Mean), Some(false)));
        let message = read_pooler_config(r#"{"pooling_type": "STEP"}"#).unwrap_err().to_string();
        assert_eq!(message, "pooler_config.pooling_type must be one of CLS, LAST, MEAN, MAX, got \"STEP\"");
        let message = read_pooler_config(r#"{"chunked": 1}"#).unwrap_err().to_string();
        assert!(message.contains("has no field \"chunked\""), "{message}");
    }
}
