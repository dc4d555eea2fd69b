//! Model definitions, their configurations and the checkpoint loader.
//!
//! ```text
//!   model folder ──► ModelConfig (config.json) ──► registry ──► llama.rs, bert.rs   one page per architecture,
//!                ├─► Checkpoint (safetensors) ──► Loader ────────┘                  made of layers/
//!                │                                                └──► Box<dyn Model>
//!                └─► SentenceTransformer (modules.json) ─────────────► Pooler       what is made of a prompt
//! ```
//!
//! A model file says what is computed and which tensors it needs. It has no word of device, element type or file
//! format: those are the backend's and the loader's. Hugging Face's field names are in `config` only.

mod albert;
mod bert;
mod bloom;
mod checkpoint;
mod cohere;
mod config;
mod deberta;
mod deepseek;
mod distilbert;
mod error;
mod falcon;
mod gemma2;
mod gemma4;
mod glm4;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod layers;
mod llama;
mod load;
mod loader;
mod model;
mod modernbert;
mod mpnet;
mod mpt;
mod nomic_bert;
mod olmo2;
mod opt;
mod phi;
mod pooler;
mod registry;
mod rope;
mod runner;
mod sentence_transformers;
mod starcoder2;

use std::fmt;

use rustllm_ops::{DType, WeightFormat};
use serde_json::{Map, Value};

pub use config::{
    AttentionConfig, BlockKind, FeedForwardConfig, Fp8Config, LatentConfig, LayerConfig, ModelConfig, MoeConfig,
    Multipliers, NormConfig, NormKind, PerLayerInputConfig, QkNorm, SharedExpertConfig,
};
pub use error::LoadError;
pub use load::{load, weight_bytes};
pub use model::{ForwardBatch, ForwardContext, Model};
pub use pooler::{Finish, PooledOutput, Pooler, Reduction};
pub use registry::supported_architectures;
pub use rope::{RopeConfig, RopeScaling};
pub use runner::{Convert, PoolerOptions, Runner};

/// How a model folder is loaded.
#[derive(Default)]
pub struct LoadOptions<'a> {
    /// Element type of the weights; `None` takes the one `config.json` names, else the one most of the checkpoint has.
    pub dtype: Option<DType>,
    /// What linear layers are quantized to while they are loaded. The output projection (and the embedding tied to it) is
    /// kept in eight bits then, other tables in `dtype`.
    pub quantization: Option<WeightFormat>,
    /// Longest sequence; `None` takes [`ModelConfig::default_max_model_len`], or what sentence-transformers cuts prompts to.
    pub max_model_len: Option<usize>,
    /// What the model is run for.
    pub runner: Runner,
    /// What the model is made into.
    pub convert: Convert,
    /// What is asked of its pooler.
    pub pooler: PoolerOptions,
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
            .field("runner", &self.runner)
            .field("convert", &self.convert)
            .field("pooler", &self.pooler)
            .field("hf_overrides", &self.hf_overrides)
            .finish_non_exhaustive()
    }
}

/// A model on its backend, and what the engine needs to know of it.
#[derive(Debug)]
pub struct LoadedModel {
    /// The model.
    pub model: Box<dyn Model>,
    /// What can be made of a prompt; `None` for a model that generates.
    pub pooler: Option<Pooler>,
    /// The entry of `architectures` it was loaded as.
    pub architecture: String,
    /// Element type of its weights.
    pub dtype: DType,
    /// Longest sequence, prompt and output together.
    pub max_model_len: usize,
    /// Elements of its tensors, a shared one counted once.
    pub num_parameters: u64,
    /// Tokens that end a sequence: `generation_config.json`'s, else `config.json`'s.
    pub eos_token_ids: Vec<u32>,
}

impl LoadedModel {
    /// The longest prompt, of a model that computes a prompt in one step.
    pub fn longest_whole_prompt(&self) -> Option<usize> {
        self.model.is_bidirectional().then_some(self.max_model_len)
    }
}
