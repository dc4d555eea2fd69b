//! The `Engine` class and what it returns.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use rustllm_core::{FinishReason, SchedulingPolicy};
use rustllm_engine::sampler::TokenLogprob;
use rustllm_engine::{
    Engine as CoreEngine, EngineConfig, EngineHandle, EngineOutput as CoreOutput, EngineRequest, InvalidArgument,
    LoadListener,
};
use serde_json::{Map, Value};

use crate::pooling::PoolingTuple;
use crate::{errors, pooling, sampling_params};

/// (token id, logprob, rank)
type Logprob = (u32, f32, u32);

/// How long a wait for outputs may keep Python from noticing Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(100);

/// What one step produced for one sequence of a request.
#[pyclass(frozen, get_all, module = "rustllm._core")]
pub(crate) struct EngineOutput {
    request_id: String,
    index: u32,
    token_ids: Vec<u32>,
    logprobs: Option<Vec<Vec<Logprob>>>,
    prompt_logprobs: Option<Vec<Option<Vec<Logprob>>>>,
    pooled: Option<Py<PyAny>>,
    finish_reason: Option<&'static str>,
    stop_reason: Option<u32>,
    error: Option<String>,
    num_cached_tokens: usize,
    num_preemptions: u32,
}

/// Counters and gauges of an engine at one moment.
#[pyclass(frozen, get_all, module = "rustllm._core")]
pub(crate) struct EngineStats {
    num_running: usize,
    num_waiting: usize,
    num_blocks: usize,
    num_free_blocks: usize,
    num_preemptions: u64,
    num_steps: u64,
    prompt_tokens: u64,
    generation_tokens: u64,
    prefix_cache_queries: u64,
    prefix_cache_hits: u64,
}

/// What an engine has loaded.
#[pyclass(frozen, get_all, module = "rustllm._core")]
pub(crate) struct ModelInfo {
    architecture: String,
    dtype: &'static str,
    quantization: Option<String>,
    kv_cache_dtype: &'static str,
    device: &'static str,
    device_name: String,
    why_not_cuda: Option<String>,
    isa: String,
    num_threads: usize,
    vocab_size: u32,
    num_layers: usize,
    num_parameters: u64,
    max_model_len: usize,
    block_size: usize,
    num_blocks: usize,
    kv_cache_bytes: usize,
    eos_token_ids: Vec<u32>,
    supported_tasks: Vec<&'static str>,
    num_labels: Option<usize>,
    embedding_size: Option<usize>,
}

/// The inference engine: token ids in; token ids, or what is made of a prompt, out.
///
/// Requests run on a thread of the engine's own, batched continuously; `step` hands over what they produced.
#[pyclass(frozen, module = "rustllm._core")]
pub(crate) struct Engine {
    handle: EngineHandle,
}

/// Python functions that hear how a model is loaded. What they raise is reported as unraisable: it is not the load's failure.
struct LoadCallbacks {
    progress: Option<Py<PyAny>>,
    note: Option<Py<PyAny>>,
}

impl LoadListener for LoadCallbacks {
    fn progress(&mut self, done: u64, total: u64) {
        call(self.progress.as_ref(), |py, callback| callback.call1(py, (done, total)));
    }

    fn note(&mut self, line: &str) {
        call(self.note.as_ref(), |py, callback| callback.call1(py, (line,)));
    }
}

fn call(callback: Option<&Py<PyAny>>, with: impl FnOnce(Python<'_>, &Py<PyAny>) -> PyResult<Py<PyAny>>) {
    let Some(callback) = callback else { return };
    Python::attach(|py| {
        if let Err(error) = with(py, callback) {
            error.write_unraisable(py, Some(callback.bind(py)));
        }
    });
}

/// (request id, prompt token ids, params, priority, cache salt)
type RequestTuple<'py> =
    (Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Bound<'py, PyAny>, Option<Bound<'py, PyAny>>);

#[pymethods]
impl Engine {
    #[new]
    #[pyo3(signature = (
        model, *, dtype = "auto", quantization = None, quantization_group_size = None,
        quantization_symmetric = None, device = "auto", max_model_len = None, max_num_seqs = 128,
        max_num_batched_tokens = None, block_size = 16, num_gpu_blocks_override = None, kv_cache_memory_bytes = None,
        gpu_memory_utilization = 0.92, enable_prefix_caching = true, scheduling_policy = "fcfs", seed = 0,
        num_threads = None, max_logprobs = 20, logprobs_mode = "raw_logprobs", hf_overrides = None,
        eos_token_ids = None, progress = None, kv_cache_dtype = "auto", runner = "auto", convert = "auto",
        pooler_config = None, deterministic = false, enforce_eager = false, async_scheduling = true,
        note = None,
    ))]
    #[expect(clippy::too_many_arguments, reason = "they are the keyword arguments of a Python class")]
    fn new(
        py: Python<'_>,
        model: PathBuf,
        dtype: &str,
        quantization: Option<&str>,
        quantization_group_size: Option<usize>,
        quantization_symmetric: Option<bool>,
        device: &str,
        max_model_len: Option<usize>,
        max_num_seqs: usize,
        max_num_batched_tokens: Option<usize>,
        block_size: usize,
        num_gpu_blocks_override: Option<usize>,
        kv_cache_memory_bytes: Option<u64>,
        gpu_memory_utilization: f64,
        enable_prefix_caching: bool,
        scheduling_policy: &str,
        seed: u64,
        num_threads: Option<usize>,
        max_logprobs: i32,
        logprobs_mode: &str,
        hf_overrides: Option<&str>,
        eos_token_ids: Option<Vec<u32>>,
        progress: Option<Py<PyAny>>,
        kv_cache_dtype: &str,
        runner: &str,
        convert: &str,
        pooler_config: Option<&str>,
        deterministic: bool,
        enforce_eager: bool,
        async_scheduling: bool,
        note: Option<Py<PyAny>>,
    ) -> PyResult<Self> {
        let invalid = |error: InvalidArgument| errors::invalid(py, &error, None);
        let config = EngineConfig {
            model,
            dtype: parse_dtype(dtype).map_err(invalid)?,
            quantization: EngineConfig::parse_quantization(
                quantization,
                quantization_group_size,
                quantization_symmetric,
            )
            .map_err(invalid)?,
            kv_cache_dtype: parse_kv_cache_dtype(kv_cache_dtype).map_err(invalid)?,
            device: device.parse().map_err(invalid)?,
            deterministic,
            enforce_eager,
            async_scheduling,
            max_model_len,
            max_num_seqs,
            max_num_batched_tokens,
            block_size,
            num_gpu_blocks_override,
            kv_cache_memory_bytes,
            gpu_memory_utilization,
            enable_prefix_caching,
            scheduling_policy: parse_policy(scheduling_policy).map_err(invalid)?,
            seed,
            num_threads,
            max_logprobs,
            logprobs_mode: logprobs_mode
                .parse()
                .map_err(|error| invalid(InvalidArgument::new("logprobs_mode", logprobs_mode, format!("{error}"))))?,
            hf_overrides: parse_overrides(hf_overrides).map_err(invalid)?,
            eos_token_ids,
            runner: runner.parse().map_err(|error| invalid(InvalidArgument::new("runner", runner, error)))?,
            convert: convert.parse().map_err(|error| invalid(InvalidArgument::new("convert", convert, error)))?,
            pooler: EngineConfig::parse_pooler_config(pooler_config).map_err(invalid)?,
        };
        let mut callbacks = LoadCallbacks { progress, note };
        let handle = py
            .detach(|| EngineHandle::start(CoreEngine::load(&config, Some(&mut callbacks))?))
            .map_err(|error| errors::engine(py, &error))?;
        Ok(Self { handle })
    }

    /// What was loaded, and the limits that follow.
    #[getter]
    fn model_info(&self) -> ModelInfo {
        let info = self.handle.info();
        ModelInfo {
            architecture: info.architecture.clone(),
            dtype: info.dtype,
            quantization: info.quantization.map(|format| format.to_string()),
            kv_cache_dtype: info.kv_cache.dtype.name(),
            device: info.device,
            device_name: info.device_name.clone(),
            why_not_cuda: info.why_not_cuda.clone(),
            isa: info.isa.clone(),
            num_threads: info.num_threads,
            vocab_size: info.vocab_size,
            num_layers: info.num_layers,
            num_parameters: info.num_parameters,
            max_model_len: info.max_model_len,
            block_size: info.kv_cache.block_size,
            num_blocks: info.kv_cache.num_blocks,
            kv_cache_bytes: info.kv_cache_bytes,
            eos_token_ids: info.eos_token_ids.clone(),
            supported_tasks: info.supported_tasks.clone(),
            num_labels: info.num_labels,
            embedding_size: info.embedding_size,
        }
    }

    /// Queues one request.
    #[pyo3(
        signature = (request_id, prompt_token_ids, params, *, priority = None, cache_salt = None),
        text_signature = "($self, request_id, prompt_token_ids, params, *, priority=0, cache_salt=None)"
    )]
    fn add_request<'py>(
        &self,
        request_id: Bound<'py, PyAny>,
        prompt_token_ids: Bound<'py, PyAny>,
        params: Bound<'py, PyAny>,
        priority: Option<Bound<'py, PyAny>>,
        cache_salt: Option<Bound<'py, PyAny>>,
    ) -> PyResult<()> {
        let py = params.py();
        let priority = priority.map_or_else(|| Ok(0i32.into_pyobject(py)?.into_any()), Ok::<_, PyErr>)?;
        self.add_requests(py, vec![(request_id, prompt_token_ids, params, priority, cache_salt)])
    }

    /// Queues (request_id, prompt_token_ids, params, priority, cache_salt) tuples at once: all, or none if one is bad.
    fn add_requests(&self, py: Python<'_>, requests: Vec<RequestTuple<'_>>) -> PyResult<()> {
        let requests = requests.into_iter().map(read_request).collect::<PyResult<Vec<_>>>()?;
        self.handle.add_requests(requests).map_err(|error| errors::engine(py, &error))
    }

    /// Queues (request_id, prompt_token_ids, token_type_ids, params, priority, cache_salt) tuples at once: all, or none if one
    /// is bad.
    fn add_pooling_requests(&self, py: Python<'_>, requests: Vec<PoolingTuple<'_>>) -> PyResult<()> {
        let requests = requests.into_iter().map(pooling::read_request).collect::<PyResult<Vec<_>>>()?;
        self.handle.add_pooling_requests(requests).map_err(|error| errors::engine(py, &error))
    }

    /// Ends requests early: their last output says `abort`. Ignores ids it does not know.
    fn abort(&self, py: Python<'_>, request_ids: Vec<String>) -> PyResult<()> {
        self.handle.abort(request_ids).map_err(|error| errors::engine(py, &error))
    }

    /// Ends some of requests' sequences early, given as (request_id, index); the requests' others go on.
    fn abort_sequences(&self, py: Python<'_>, sequences: Vec<(String, u32)>) -> PyResult<()> {
        self.handle.abort_sequences(sequences).map_err(|error| errors::engine(py, &error))
    }

    /// Waits for the next outputs and returns all there are; an empty list when nothing is unfinished or nothing came.
    #[pyo3(signature = (timeout = None))]
    fn step(&self, py: Python<'_>, timeout: Option<f64>) -> PyResult<Vec<EngineOutput>> {
        let end = match timeout.map(Duration::try_from_secs_f64) {
            Some(Ok(timeout)) => Instant::now().checked_add(timeout),
            Some(Err(_)) => {
                return Err(errors::validation(
                    py,
                    "timeout must be a non-negative number of seconds",
                    Some("timeout"),
                    None,
                ));
            }
            None => None,
        };
        loop {
            let left = end.map_or(SIGNAL_INTERVAL, |end| end.saturating_duration_since(Instant::now()));
            let outputs = py
                .detach(|| self.handle.step(Some(left.min(SIGNAL_INTERVAL))))
                .map_err(|error| errors::engine(py, &error))?;
            py.check_signals()?;
            if !outputs.is_empty() || !self.handle.has_unfinished() || left < SIGNAL_INTERVAL {
                return merge(py, outputs);
            }
        }
    }

    /// Whether outputs are still to come from `step`.
    fn has_unfinished(&self) -> bool {
        self.handle.has_unfinished()
    }

    /// Does nothing while requests are taken; raises EngineDeadError once the engine has stopped.
    fn check_health(&self, py: Python<'_>) -> PyResult<()> {
        self.handle.check_health().map_err(|error| errors::engine(py, &error))
    }

    /// Requests with outputs still to come.
    #[getter]
    fn num_unfinished(&self) -> usize {
        self.handle.num_unfinished()
    }

    /// Counters and gauges as of the last step.
    fn stats(&self) -> EngineStats {
        let stats = self.handle.stats();
        EngineStats {
            num_running: stats.num_running,
            num_waiting: stats.num_waiting,
            num_blocks: stats.num_blocks,
            num_free_blocks: stats.num_free_blocks,
            num_preemptions: stats.num_preemptions,
            num_steps: stats.num_steps,
            prompt_tokens: stats.prompt_tokens,
            generation_tokens: stats.generation_tokens,
            prefix_cache_queries: stats.prefix_cache_queries,
            prefix_cache_hits: stats.prefix_cache_hits,
        }
    }

    /// Forgets cached prefixes; false, and nothing done, while requests run.
    fn reset_prefix_cache(&self, py: Python<'_>) -> PyResult<bool> {
        py.detach(|| self.handle.reset_prefix_cache()).map_err(|error| errors::engine(py, &error))
    }

    /// Aborts everything and joins the engine thread. Idempotent.
    fn shutdown(&self, py: Python<'_>) {
        py.detach(|| self.handle.shutdown());
    }
}

fn parse_dtype(name: &str) -> Result<Option<rustllm_engine::DType>, InvalidArgument> {
    if name == "auto" {
        return Ok(None);
    }
    let refused = |_| {
        let allowed = "auto, half, float16, bfloat16, float, float32";
        InvalidArgument::new("dtype", name, format!("dtype must be one of {allowed}, got {name:?}"))
    };
    name.parse().map(Some).map_err(refused)
}

fn parse_kv_cache_dtype(name: &str) -> Result<Option<rustllm_engine::KvCacheDType>, InvalidArgument> {
    if name == "auto" {
        return Ok(None);
    }
    let refused = |_| {
        let allowed = "auto, float32, float16, bfloat16, int8";
        InvalidArgument::new("kv_cache_dtype", name, format!("kv_cache_dtype must be one of {allowed}, got {name:?}"))
    };
    name.parse().map(Some).map_err(refused)
}

fn parse_policy(name: &str) -> Result<SchedulingPolicy, InvalidArgument> {
    match name {
        "fcfs" => Ok(SchedulingPolicy::Fcfs),
        "priority" => Ok(SchedulingPolicy::Priority),
        other => {
            let message = format!("scheduling_policy must be one of fcfs, priority, got {other:?}");
            Err(InvalidArgument::new("scheduling_policy", other, message))
        }
    }
}

fn parse_overrides(json: Option<&str>) -> Result<Map<String, Value>, InvalidArgument> {
    json.map_or(Ok(Map::new()), |json| {
        serde_json::from_str(json).map_err(|error| {
            InvalidArgument::new("hf_overrides", json, format!("hf_overrides must be a JSON object: {error}"))
        })
    })
}

fn read_request((request_id, prompt, params, priority, cache_salt): RequestTuple<'_>) -> PyResult<EngineRequest> {
    let prompt: Vec<u32> =
        argument(&prompt, "prompt_token_ids", "a sequence of token ids, none of them negative or past 2**32")?;
    Ok(EngineRequest {
        request_id: argument(&request_id, "request_id", "a str")?,
        prompt_token_ids: prompt.into(),
        params: Arc::new(sampling_params::read(&params)?),
        priority: argument(&priority, "priority", "an int of 32 bits")?,
        cache_salt: cache_salt.map(|salt| argument(&salt, "cache_salt", "a str or None")).transpose()?,
    })
}

/// An argument of the type that `expected` describes.
pub(crate) fn argument<'py, T>(value: &Bound<'py, PyAny>, name: &str, expected: &str) -> PyResult<T>
where
    T: for<'a> FromPyObject<'a, 'py>,
{
    value.extract().map_err(|_| {
        errors::validation(value.py(), &format!("{name} must be {expected}"), Some(name), Some(value.clone()))
    })
}

/// Joins the outputs of a sequence over several steps into one.
fn merge(py: Python<'_>, outputs: Vec<CoreOutput>) -> PyResult<Vec<EngineOutput>> {
    let mut merged: Vec<EngineOutput> = Vec::with_capacity(outputs.len());
    let mut places = HashMap::with_capacity(outputs.len());
    for output in outputs {
        let place = *places.entry((output.request_id.clone(), output.index)).or_insert(merged.len());
        if place == merged.len() {
            merged.push(EngineOutput {
                request_id: output.request_id.to_string(),
                index: output.index,
                token_ids: Vec::new(),
                logprobs: None,
                prompt_logprobs: None,
                pooled: None,
                finish_reason: None,
                stop_reason: None,
                error: None,
                num_cached_tokens: 0,
                num_preemptions: 0,
            });
        }
        if let Some(pooled) = &output.pooled {
            merged[place].pooled = Some(pooling::array(py, pooled)?);
        }
        extend(&mut merged[place], output);
    }
    Ok(merged)
}

fn extend(merged: &mut EngineOutput, output: CoreOutput) {
    let tuples = |logprobs: Vec<TokenLogprob>| -> Vec<Logprob> {
        logprobs.into_iter().map(|entry| (entry.token_id, entry.logprob, entry.rank)).collect()
    };
    merged.token_ids.extend(output.token_id);
    if let Some(logprobs) = output.logprobs {
        merged.logprobs.get_or_insert_default().push(tuples(logprobs));
    }
    if let Some(prompt) = output.prompt_logprobs {
        merged.prompt_logprobs = Some(prompt.into_iter().map(|entry| entry.map(tuples)).collect());
    }
    if let Some(reason) = output.finish_reason {
        (merged.finish_reason, merged.stop_reason) = match reason {
            FinishReason::Stop(token) => (Some("stop"), token),
            FinishReason::Length => (Some("length"), None),
            FinishReason::Abort => (Some("abort"), None),
            FinishReason::Error => (Some("error"), None),
        };
    }
    merged.error = output.error;
    merged.num_cached_tokens = output.num_cached_tokens;
    merged.num_preemptions = output.num_preemptions;
}
