//! Model definitions, their configurations and the checkpoint loader.
//!
//! ```text
//!   model folder ──► ModelConfig (config.json) ──► registry ──► llama.rs, gpt2.rs   one page per architecture,
//!                └─► Checkpoint (safetensors) ──► Loader ────────┘                  made of layers/
//!                                                                 └──► Box<dyn Model>
//! ```
//!
//! A model file says what is computed and which tensors it needs. It has no word of device, element type or file
//! format: those are the backend's and the loader's. Hugging Face's field names are in `config` only.

mod bloom;
mod checkpoint;
mod cohere;
mod config;
mod deepseek;
mod error;
mod falcon;
mod gemma2;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod layers;
mod llama;
mod loader;
mod model;
mod mpt;
mod olmo2;
mod opt;
mod phi;
mod registry;
mod rope;
mod starcoder2;

use std::fmt;
use std::path::Path;

use rustllm_ops::{Backend, DType, WeightFormat};
use serde_json::{Map, Value};

use checkpoint::Checkpoint;
pub use config::{
    AttentionConfig, BlockKind, FeedForwardConfig, LatentConfig, LayerConfig, ModelConfig, MoeConfig, Multipliers,
    NormConfig, NormKind, QkNorm, SharedExpertConfig,
};
pub use error::LoadError;
use loader::{Formats, Loader, Loading};
pub use model::{ForwardBatch, ForwardContext, Model};
pub use registry::supported_architectures;
pub use rope::{RopeConfig, RopeScaling};

/// How a model folder is loaded.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Element type of the weights; `None` takes the one `config.json` names, else the one most of the checkpoint has.
    pub dtype: Option<DType>,
    /// What linear layers are quantized to while they are loaded. The output projection (and the embedding tied to it) is
    /// kept in eight bits then, other tables in `dtype`.
    pub quantization: Option<WeightFormat>,
    /// Longest sequence; `None` takes [`ModelConfig::default_max_model_len`].
    pub max_model_len: Option<usize>,
    /// Fields put over those of `config.json`.
    pub hf_overrides: Map<String, Value>,
    /// Called with the bytes loaded so far and their total.
    pub progress: Option<&'a mut dyn FnMut(u64, u64)>,
}

impl fmt::Debug for LoadOptions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LoadOptions")
            .field("dtype", &self.dtype)
            .field("quantization", &self.quantization)
            .field("max_model_len", &self.max_model_len)
            .field("hf_overrides", &self.hf_overrides)
            .finish_non_exhaustive()
    }
}

/// A model on its backend, and what the engine needs to know of it.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: Box<dyn Model>,
    /// What it computes.
    pub config: ModelConfig,
    /// Element type of its weights.
    pub dtype: DType,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
    /// Elements of its tensors, a shared one counted once.
    pub num_parameters: u64,
    /// Tokens that end a sequence: `generation_config.json`'s, else `config.json`'s.
    pub eos_token_ids: Vec<u32>,
}

/// Loads the Hugging Face model folder `dir` onto `backend`.
///
/// Reads `config.json`, `generation_config.json` and safetensors weights, memory-mapped. Nothing in the folder is
/// executed.
///
/// # Errors
/// [`LoadError`] naming the file, field or tensor at fault: whatever the files hold, this does not panic.
pub fn load(dir: &Path, backend: &dyn Backend, options: LoadOptions<'_>) -> Result<LoadedModel, LoadError> {
    let (mut config, architecture) = ModelConfig::read(dir, &options.hf_overrides)?;
    config.max_model_len = max_model_len(options.max_model_len, &config)?;
    let checkpoint = Checkpoint::open(dir)?;
    let dtype = options.dtype.or(config.dtype).unwrap_or_else(|| checkpoint.dtype());
    let formats = Formats::new(dtype, options.quantization);
    formats.all().into_iter().try_for_each(|format| supported(backend, format))?;
    let mut ignored = |_, _| {};
    let loading = Loading::new(backend, &checkpoint, formats, options.progress.unwrap_or(&mut ignored));
    let model = (architecture.build)(&Loader::new(&loading), &config)?;
    let num_parameters = loading.finish(architecture.name, architecture.is_buffer)?;
    let (max_model_len, eos_token_ids) = (config.max_model_len, config.eos_token_ids.clone());
    Ok(LoadedModel { model, config, dtype, max_model_len, num_parameters, eos_token_ids })
}

fn max_model_len(requested: Option<usize>, config: &ModelConfig) -> Result<usize, LoadError> {
    let limit = config.max_model_len;
    match requested {
        None => Ok(config.default_max_model_len()),
        Some(requested) if (1..=limit).contains(&requested) => Ok(requested),
        Some(requested) => Err(LoadError::MaxModelLen { requested, limit }),
    }
}

fn supported(backend: &dyn Backend, format: WeightFormat) -> Result<(), LoadError> {
    if backend.supports(format) {
        return Ok(());
    }
    let all = [DType::F32, DType::F16, DType::BF16].map(WeightFormat::Dense).into_iter().chain([WeightFormat::Int8]);
    let allowed: Vec<_> = all.filter(|format| backend.supports(*format)).map(|format| format.to_string()).collect();
    Err(LoadError::UnsupportedFormat { format, backend: backend.name(), allowed: allowed.join(", ") })
}
