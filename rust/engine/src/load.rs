//! From a configuration to an engine: the device, the model, the plan of its memory.

use rustllm_core::{Scheduler, SchedulerConfig};
use rustllm_models::{LoadOptions, LoadedModel};
use rustllm_ops::{Backend, KvCacheSpec, WeightFormat};

use crate::decode_graphs::{self, DecodeGraphs};
use crate::device::{self, OpenDevice};
use crate::model_runner::ModelRunner;
use crate::pooling::{self, PoolingRunner};
use crate::sampling::SamplingRunner;
use crate::{Engine, EngineConfig, EngineError, InvalidArgument, Limits, PoolingLimits, memory, profile};

/// What an engine has loaded, and the limits that follow.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// The `architectures` entry of config.json.
    pub architecture: String,
    /// Element type of weights.
    pub dtype: &'static str,
    /// What linear layers are quantized to, if they are.
    pub quantization: Option<WeightFormat>,
    /// Name of the device.
    pub device: &'static str,
    /// What the device calls itself.
    pub device_name: String,
    /// Why `device="auto"` is the CPU.
    pub why_not_cuda: Option<String>,
    /// Instruction set of the kernels in use.
    pub isa: String,
    /// Compute threads.
    pub num_threads: usize,
    /// Token ids are below this.
    pub vocab_size: u32,
    /// Layers of the model.
    pub num_layers: usize,
    /// Parameters of the model, shared ones counted once.
    pub num_parameters: u64,
    /// Longest prompt plus completion, in tokens.
    pub max_model_len: usize,
    /// The paged cache: which layers share blocks, and how many blocks there are.
    pub kv_cache: KvCacheSpec,
    /// Bytes of the cache. A block holds `block_size` tokens of the layers of one group.
    pub kv_cache_bytes: usize,
    /// Tokens that end a sequence.
    pub eos_token_ids: Vec<u32>,
    /// `generate`, or the pooling tasks of a model that is pooled.
    pub supported_tasks: Vec<&'static str>,
    /// Classes of a classifier's scores.
    pub num_labels: Option<usize>,
    /// Elements of an embedder's vectors.
    pub embedding_size: Option<usize>,
}

impl ModelInfo {
    fn of(
        config: &EngineConfig,
        loaded: &LoadedModel,
        device: &OpenDevice,
        (scheduler, kv_cache, block_bytes): (&SchedulerConfig, KvCacheSpec, usize),
        pooling: Option<&PoolingLimits>,
    ) -> Self {
        let tasks = pooling.map(|pooling| pooling.tasks.iter().map(|task| task.name()).collect());
        let is_bidirectional = loaded.model.is_bidirectional();
        Self {
            architecture: loaded.architecture.clone(),
            dtype: loaded.dtype.name(),
            quantization: config.quantization,
            device: device.backend.name(),
            device_name: device.name.clone(),
            why_not_cuda: device.why_not_cuda.as_ref().map(ToString::to_string),
            isa: device.isa.clone(),
            num_threads: device.num_threads,
            vocab_size: loaded.model.vocab_size() as u32,
            num_layers: loaded.model.num_layers(),
            num_parameters: loaded.num_parameters,
            max_model_len: if is_bidirectional { loaded.max_model_len } else { scheduler.max_model_len },
            kv_cache_bytes: block_bytes.saturating_mul(kv_cache.num_blocks),
            kv_cache,
            eos_token_ids: scheduler.eos_token_ids.clone(),
            supported_tasks: tasks.unwrap_or_else(|| vec!["generate"]),
            num_labels: pooling.and_then(|pooling| pooling.num_labels),
            embedding_size: pooling.and_then(|pooling| pooling.embedding_size),
        }
    }
}

/// Hears how a model is loaded.
pub trait LoadListener {
    /// `done` bytes of a checkpoint of `total` are loaded.
    fn progress(&mut self, done: u64, total: u64);

    /// A line for people: which device, and what its memory is planned for.
    fn note(&mut self, line: &str);
}

/// For those who do not listen.
struct Unheard;

impl LoadListener for Unheard {
    fn progress(&mut self, _done: u64, _total: u64) {}

    fn note(&mut self, _line: &str) {}
}

impl Engine {
    /// Opens the device, loads the model and reserves the cache. `listener` hears how it goes.
    ///
    /// # Errors
    /// Arguments out of range, a model that cannot be loaded, or too little memory.
    pub fn load(config: &EngineConfig, listener: Option<&mut dyn LoadListener>) -> Result<Self, EngineError> {
        config.verify()?;
        let mut unheard = Unheard;
        let listener = listener.unwrap_or(&mut unheard);
        let device = device::open(config)?;
        if let Some(error) = device.why_not_cuda.as_ref().filter(|error| error.concerns_a_gpu()) {
            listener.note(&format!("device=auto is the CPU: {error}"));
        }
        let loaded = load_model(config, &device, listener)?;
        let eos_token_ids = eos_token_ids(config, &loaded)?;
        let (scheduler, spec, block_bytes) = plan(config, &loaded, &*device.backend, &eos_token_ids)?;
        if device.backend.device_memory()?.is_some() && !loaded.model.is_bidirectional() {
            listener.note(&memory::describe_cache(&spec, block_bytes));
        }
        let has_graphs = device.backend.graphs().is_some();
        // A block more than the scheduler knows of, for the rows that fill a captured step up.
        let allocated = KvCacheSpec { num_blocks: spec.num_blocks + usize::from(has_graphs), ..spec.clone() };
        let kv_cache = device.backend.alloc_kv_cache(&allocated)?;
        let graphs = DecodeGraphs::new(scheduler.max_model_len, &kv_cache, config.enforce_eager);
        let pooling = pooling_limits(config, &loaded);
        let info = ModelInfo::of(config, &loaded, &device, (&scheduler, spec, block_bytes), pooling.as_ref());
        let scheduler = Scheduler::new(scheduler)
            .map_err(|error| InvalidArgument::new(error.field, error.value, error.to_string()))?;
        let limits = Limits {
            vocab_size: info.vocab_size,
            max_model_len: info.max_model_len,
            max_logprobs: config.max_logprobs,
            pooling,
        };
        let pooling = loaded.pooler.map(PoolingRunner::new);
        let sampling = SamplingRunner::new(eos_token_ids, config.logprobs_mode);
        let runner = ModelRunner::new(device.backend, loaded.model, kv_cache, graphs, sampling, pooling);
        Ok(Self::new(scheduler, runner, (info, limits), config.seed, config.async_scheduling && has_graphs))
    }
}

/// Loads the model, once it is known that its weights have room on the device.
fn load_model(
    config: &EngineConfig,
    device: &OpenDevice,
    listener: &mut dyn LoadListener,
) -> Result<LoadedModel, EngineError> {
    let mut options = LoadOptions {
        dtype: config.dtype,
        quantization: config.quantization,
        max_model_len: config.max_model_len,
        hf_overrides: config.hf_overrides.clone(),
        runner: config.runner,
        convert: config.convert,
        pooler: config.pooler,
        progress: None,
    };
    if let Some(memory) = device.backend.device_memory()? {
        let weights = rustllm_models::weight_bytes(&config.model, &options)?;
        listener.note(&format!("{}: {}", device.name, memory::describe(config, memory, weights)));
        memory::require_room(config, memory, weights)?;
    }
    let mut progress = |done, total| listener.progress(done, total);
    options.progress = Some(&mut progress);
    Ok(rustllm_models::load(&config.model, &*device.backend, options)?)
}

/// The tokens that end a sequence: those given, or the model's own.
fn eos_token_ids(config: &EngineConfig, loaded: &LoadedModel) -> Result<Vec<u32>, EngineError> {
    let vocab_size = loaded.model.vocab_size() as u32;
    let ids = config.eos_token_ids.as_ref().unwrap_or(&loaded.eos_token_ids);
    match ids.iter().find(|id| **id >= vocab_size) {
        None => Ok(ids.clone()),
        Some(id) => {
            let message = format!("eos_token_ids must be below the vocabulary size {vocab_size}, got {id}");
            Err(InvalidArgument::new("eos_token_ids", id, message).into())
        }
    }
}

/// The scheduler's settings, the cache, and the bytes of a block of it.
///
/// A bidirectional model has no cache. Its prompts run whole, each in one block that stands for its place in the step.
fn plan(
    config: &EngineConfig,
    loaded: &LoadedModel,
    backend: &dyn Backend,
    eos_token_ids: &[u32],
) -> Result<(SchedulerConfig, KvCacheSpec, usize), EngineError> {
    let kv_cache_dtype = config.kv_cache_dtype.unwrap_or(loaded.dtype.into());
    let mut spec = loaded.model.kv_cache_spec(config.block_size, 0, kv_cache_dtype);
    let block_bytes = backend.kv_cache_block_bytes(&spec);
    let step_tokens = config.step_tokens(loaded.longest_whole_prompt());
    if backend.device_memory()?.is_some() {
        let num_logits = if loaded.pooler.is_none() { decode_graphs::padded_seqs(config.max_num_seqs) } else { 0 };
        let sizes = (step_tokens, num_logits, loaded.max_model_len);
        profile::run_largest_step(backend, &*loaded.model, &spec, sizes)?;
        if loaded.pooler.is_none() && !config.enforce_eager {
            decode_graphs::reserve(backend, &*loaded.model, &spec, (config.max_num_seqs, loaded.max_model_len))?;
        }
    }
    let mut scheduler = SchedulerConfig {
        max_num_seqs: config.max_num_seqs,
        max_num_batched_tokens: step_tokens,
        max_model_len: loaded.max_model_len.min(step_tokens),
        block_size: loaded.max_model_len,
        num_blocks: config.max_num_seqs,
        sliding_windows: vec![None],
        enable_prefix_caching: false,
        enable_chunked_prefill: false,
        policy: config.scheduling_policy,
        eos_token_ids: eos_token_ids.to_vec(),
    };
    if !loaded.model.is_bidirectional() {
        scheduler.block_size = config.block_size;
        scheduler.sliding_windows = spec.groups.iter().map(|group| group.kind.sliding_window).collect();
        let (groups, budget) = (scheduler.kv_cache_groups(), memory::budget(config, backend)?);
        (scheduler.num_blocks, scheduler.max_model_len) =
            memory::plan(config, &groups, block_bytes, loaded.max_model_len, budget)?;
        scheduler.enable_prefix_caching = config.enable_prefix_caching;
        scheduler.enable_chunked_prefill = true;
        spec.num_blocks = scheduler.num_blocks;
    }
    Ok((scheduler, spec, block_bytes))
}

/// What a model that is pooled can be asked for.
fn pooling_limits(config: &EngineConfig, loaded: &LoadedModel) -> Option<PoolingLimits> {
    let pooler = loaded.pooler.as_ref()?;
    let labels = pooler.classify.as_ref().or(pooler.token_classify.as_ref());
    let whole = loaded.longest_whole_prompt();
    Some(PoolingLimits {
        tasks: pooling::tasks(pooler),
        embedding_size: pooler.embed.as_ref().map(|output| output.size),
        num_labels: labels.map(|output| output.size),
        matryoshka_dimensions: pooler.matryoshka_dimensions.clone(),
        num_token_types: loaded.model.num_token_types().max(1),
        max_num_batched_tokens: whole.map(|_| config.step_tokens(whole)),
    })
}
