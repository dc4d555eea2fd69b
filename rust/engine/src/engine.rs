use std::sync::Arc;

use rustllm_core::{
    FinishReason, PoolingInput, Request, SamplingParams, Scheduler, SchedulerConfig, SchedulerOutput, SeqId, Sequence,
    SequenceUpdate,
};
use rustllm_models::{LoadOptions, LoadedModel};
use rustllm_ops::{Backend, Error, KvCacheSpec, WeightFormat};

use crate::decode_graphs::{self, DecodeGraphs};
use crate::memory;
use crate::model_runner::{ModelRunner, SampledRow};
use crate::overlapped::StepUnderWay;
use crate::pooling::{self, PoolingRunner};
use crate::sampling::SamplingRunner;
use crate::{
    EngineConfig, EngineError, EngineOutput, EngineRequest, EngineStats, InvalidArgument, Limits, PoolingLimits,
    PoolingRequest, device, profile,
};

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

/// A scheduler and a model, stepped by hand. [`EngineHandle`](crate::EngineHandle) steps one on a thread.
#[derive(Debug)]
pub struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) runner: ModelRunner,
    limits: Limits,
    info: ModelInfo,
    seed: u64,
    num_requests: u64,
    pub(crate) num_steps: u64,
    prompt_tokens: u64,
    generation_tokens: u64,
    /// Last outputs of sequences that ended outside a step.
    pub(crate) ended: Vec<EngineOutput>,
    /// Of the overlapped loop.
    pub(crate) under_way: Option<StepUnderWay>,
    overlaps: bool,
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
        let loaded = rustllm_models::load(&config.model, &*device.backend, options)?;
        let vocab_size = loaded.model.vocab_size() as u32;
        let eos_token_ids = config.eos_token_ids.clone().unwrap_or_else(|| loaded.eos_token_ids.clone());
        if let Some(id) = eos_token_ids.iter().find(|id| **id >= vocab_size) {
            let message = format!("eos_token_ids must be below the vocabulary size {vocab_size}, got {id}");
            return Err(InvalidArgument::new("eos_token_ids", id, message).into());
        }

        let (scheduler_config, spec, block_bytes) = plan(config, &loaded, &*device.backend, &eos_token_ids)?;
        let (max_model_len, pooling) = (scheduler_config.max_model_len, pooling_limits(config, &loaded));
        if device.backend.device_memory()?.is_some() && !loaded.model.is_bidirectional() {
            listener.note(&memory::describe_cache(&spec, block_bytes));
        }
        // A block more than the scheduler knows of, for the rows that fill a captured step up.
        let spare = usize::from(device.backend.graphs().is_some());
        let allocated = KvCacheSpec { num_blocks: spec.num_blocks + spare, ..spec.clone() };
        let kv_cache = device.backend.alloc_kv_cache(&allocated)?;
        let graphs = DecodeGraphs::new(max_model_len, &kv_cache, config.enforce_eager);
        let scheduler = Scheduler::new(scheduler_config)
            .map_err(|error| InvalidArgument::new(error.field, error.value, error.to_string()))?;
        let tasks = pooling.as_ref().map(|pooling| pooling.tasks.iter().map(|task| task.name()).collect());
        let info = ModelInfo {
            architecture: loaded.architecture,
            dtype: loaded.dtype.name(),
            quantization: config.quantization,
            device: device.backend.name(),
            device_name: device.name,
            why_not_cuda: device.why_not_cuda.map(|error| error.to_string()),
            isa: device.isa,
            num_threads: device.num_threads,
            vocab_size,
            num_layers: loaded.model.num_layers(),
            num_parameters: loaded.num_parameters,
            max_model_len: if loaded.model.is_bidirectional() { loaded.max_model_len } else { max_model_len },
            kv_cache_bytes: block_bytes.saturating_mul(spec.num_blocks),
            kv_cache: spec,
            eos_token_ids: eos_token_ids.clone(),
            supported_tasks: tasks.unwrap_or_else(|| vec!["generate"]),
            num_labels: pooling.as_ref().and_then(|pooling| pooling.num_labels),
            embedding_size: pooling.as_ref().and_then(|pooling| pooling.embedding_size),
        };
        let limits =
            Limits { vocab_size, max_model_len: info.max_model_len, max_logprobs: config.max_logprobs, pooling };
        let pooling = loaded.pooler.map(PoolingRunner::new);
        let sampling = SamplingRunner::new(eos_token_ids, config.logprobs_mode);
        let runner = ModelRunner::new(device.backend, loaded.model, kv_cache, graphs, sampling, pooling);
        Ok(Self {
            scheduler,
            runner,
            limits,
            info,
            seed: config.seed,
            num_requests: 0,
            num_steps: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            ended: Vec::new(),
            under_way: None,
            overlaps: config.async_scheduling && spare > 0,
        })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What a request must keep to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Queues a request that has passed [`Limits::check`]. One that the scheduler still refuses ends with an error output.
    pub fn add_request(&mut self, request: EngineRequest) {
        self.num_requests += 1;
        // Requests without a seed draw from streams of their own, reproducible from the engine's seed.
        let seed = request.params.seed.unwrap_or_else(|| mix(self.seed ^ mix(self.num_requests)));
        let (name, n) = (Arc::<str>::from(request.request_id.as_str()), request.params.n);
        let request = Request {
            request_id: request.request_id,
            prompt_token_ids: request.prompt_token_ids,
            params: request.params,
            priority: request.priority,
            cache_salt: request.cache_salt,
            seed,
            pooling: None,
        };
        self.queue(request, name, n);
    }

    /// Queues a pooling request that has passed [`Limits::check_pooling`].
    pub fn add_pooling_request(&mut self, request: PoolingRequest) {
        let name = Arc::<str>::from(request.request_id.as_str());
        let input = PoolingInput {
            skip_reading_prefix_cache: self.runner.reads_every_row(request.params.task),
            params: request.params,
            token_type_ids: request.token_type_ids,
        };
        let request = Request {
            request_id: request.request_id,
            prompt_token_ids: request.prompt_token_ids,
            params: Arc::new(SamplingParams::default()),
            priority: request.priority,
            cache_salt: request.cache_salt,
            seed: 0,
            pooling: Some(Arc::new(input)),
        };
        self.queue(request, name, 1);
    }

    fn queue(&mut self, request: Request, name: Arc<str>, n: u32) {
        self.prompt_tokens += request.prompt_token_ids.len() as u64;
        if let Err(error) = self.scheduler.add_request(request) {
            self.ended.extend((0..n).map(|index| EngineOutput {
                error: Some(error.to_string()),
                ..ended_output(name.clone(), index, FinishReason::Error)
            }));
        }
    }

    /// Ends a request now; its sequences' last outputs come with the next step.
    pub fn abort(&mut self, request_id: &str) {
        for seq_id in self.scheduler.abort(request_id) {
            self.end_aborted(seq_id);
        }
    }

    /// Ends one of a request's sequences now; its last output comes with the next step.
    pub fn abort_sequence(&mut self, request_id: &str, index: u32) {
        if let Some(seq_id) = self.scheduler.abort_sequence(request_id, index) {
            self.end_aborted(seq_id);
        }
    }

    fn end_aborted(&mut self, seq_id: SeqId) {
        self.runner.forget(seq_id);
        if let Some(sequence) = self.scheduler.sequence(seq_id) {
            self.ended.push(EngineOutput {
                num_cached_tokens: sequence.num_cached_tokens(),
                num_preemptions: sequence.num_preemptions(),
                ..ended_output(sequence.request_id().clone(), sequence.index(), FinishReason::Abort)
            });
        }
    }

    /// Whether a step would do or hand over anything.
    pub fn has_unfinished(&self) -> bool {
        self.scheduler.has_unfinished() || !self.ended.is_empty() || self.under_way.is_some()
    }

    /// Whether [`step_overlapped`](Self::step_overlapped) gains anything on this device, and is not switched off.
    pub fn overlaps_steps(&self) -> bool {
        self.overlaps
    }

    /// One step: decide, compute, record. Returns what every sequence that got a token or ended produced.
    ///
    /// A step whose computation fails ends the sequences that were in it, with `error`, and no others.
    pub fn step(&mut self) -> Vec<EngineOutput> {
        self.num_steps += 1;
        let mut outputs = std::mem::take(&mut self.ended);
        let scheduled = self.scheduler.schedule();
        if scheduled.sequences.is_empty() {
            return outputs;
        }
        match self.runner.execute(&self.scheduler, &scheduled) {
            Ok(rows) => self.record(&scheduled, rows, &mut outputs),
            Err(error) => self.fail(&scheduled, &error, &mut outputs),
        }
        outputs
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        let scheduler = self.scheduler.stats();
        EngineStats {
            num_running: self.scheduler.num_running(),
            num_waiting: self.scheduler.num_waiting(),
            num_blocks: self.info.kv_cache.num_blocks,
            num_free_blocks: scheduler.num_free_blocks.min(self.info.kv_cache.num_blocks),
            num_preemptions: scheduler.num_preemptions,
            num_steps: self.num_steps,
            prompt_tokens: self.prompt_tokens,
            generation_tokens: self.generation_tokens,
            prefix_cache_queries: scheduler.prefix_cache_queries,
            prefix_cache_hits: scheduler.prefix_cache_hits,
        }
    }

    /// Forgets cached prefixes; false, and nothing done, while requests run.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.finish_step_under_way();
        self.scheduler.reset_prefix_cache()
    }

    /// Recounts every block. For tests.
    pub fn check_integrity(&self) {
        self.scheduler.check_integrity();
    }

    /// Ends the sequences of a step that could not be computed.
    pub(crate) fn fail(&mut self, scheduled: &SchedulerOutput, error: &Error, outputs: &mut Vec<EngineOutput>) {
        for update in self.scheduler.fail_step(scheduled) {
            let output = self.output(update, SampledRow::default());
            outputs.push(EngineOutput { error: Some(error.to_string()), ..output });
        }
    }

    /// Gives the scheduler its tokens and writes down what came of every sequence.
    pub(crate) fn record(
        &mut self,
        scheduled: &SchedulerOutput,
        rows: Vec<SampledRow>,
        outputs: &mut Vec<EngineOutput>,
    ) {
        let tokens: Vec<Option<u32>> = rows.iter().map(SampledRow::token_id).collect();
        for (entry, row) in scheduled.sequences.iter().zip(&rows) {
            // Where a token was due, the scheduler takes its absence for the failure it is.
            if let Some(error) = row.error().filter(|_| !entry.samples || row.pooled.is_some()) {
                let update = self.scheduler.finish_with_error(entry.seq_id);
                let output = update.map(|update| self.output(update, SampledRow::default()));
                outputs.extend(output.map(|output| EngineOutput { error: Some(error), ..output }));
            }
        }
        // Updates come in the order of the rows, but not for every row.
        let mut rows = scheduled.sequences.iter().zip(rows);
        for update in self.scheduler.update(scheduled, &tokens) {
            let row = rows.find(|(entry, _)| entry.seq_id == update.seq_id).map(|(_, row)| row);
            outputs.push(self.output(update, row.unwrap_or_default()));
        }
    }

    /// What a sequence got from a step, or ended with.
    fn output(&mut self, update: SequenceUpdate, row: SampledRow) -> EngineOutput {
        self.generation_tokens += u64::from(update.token_id.is_some());
        if update.finish.is_some() {
            self.runner.forget(update.seq_id);
        }
        let sequence = self.scheduler.sequence(update.seq_id);
        let error = row.error();
        EngineOutput {
            request_id: update.request_id,
            index: update.index,
            token_id: update.token_id,
            logprobs: row.sampled.and_then(Result::ok).and_then(|token| token.logprobs),
            prompt_logprobs: row.prompt_logprobs,
            pooled: row.pooled.and_then(Result::ok),
            finish_reason: update.finish,
            error,
            num_cached_tokens: sequence.map_or(0, Sequence::num_cached_tokens),
            num_preemptions: sequence.map_or(0, Sequence::num_preemptions),
        }
    }
}

fn ended_output(request_id: Arc<str>, index: u32, reason: FinishReason) -> EngineOutput {
    EngineOutput {
        request_id,
        index,
        token_id: None,
        logprobs: None,
        prompt_logprobs: None,
        pooled: None,
        finish_reason: Some(reason),
        error: None,
        num_cached_tokens: 0,
        num_preemptions: 0,
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

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring inputs to unrelated outputs.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
