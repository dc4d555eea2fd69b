//! The device's sampler and the host's, on the same logits: the same tokens, logprobs and errors, to the bit.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

use std::sync::Arc;

use rustllm_core::{Request, SamplingParams, Scheduler, SchedulerConfig, SchedulingPolicy};
use rustllm_cpu::{CpuBackend, CpuOptions};
use rustllm_cuda::{CudaBackend, CudaOptions};
use rustllm_models::ForwardContext;
use rustllm_ops::conformance::numbers;
use rustllm_ops::{KvCacheDType, KvCacheSpec};

use super::*;

/// Three chunks of the device's scan, the last one not full.
const VOCAB_SIZE: usize = 300;
const EOS: u32 = 2;

/// A model whose hidden states are its logits.
#[derive(Debug)]
struct Identity;

impl Model for Identity {
    fn forward(&self, _: &ForwardContext<'_>) -> Result<Tensor> {
        unreachable!("tests bring the hidden states along")
    }

    fn predict(&self, backend: &dyn Backend, hidden: &Tensor, num_logits: usize) -> Result<Predictions> {
        let others = hidden.row_range(num_logits, hidden.rows() - num_logits)?;
        Ok(Predictions { logits: hidden.row_range(0, num_logits)?, argmax: backend.argmax(&others)? })
    }

    fn kv_cache_spec(&self, _: usize, _: usize, _: KvCacheDType) -> KvCacheSpec {
        unreachable!("no cache is made")
    }

    fn vocab_size(&self) -> usize {
        VOCAB_SIZE
    }

    fn num_layers(&self) -> usize {
        0
    }
}

fn cuda() -> CudaBackend {
    if std::env::var_os("RUSTLLM_TEST_GPU").is_none() {
        rustllm_cuda_simulator::load();
    }
    CudaBackend::new(CudaOptions::default()).expect("a device")
}

fn cpu() -> CpuBackend {
    CpuBackend::new(CpuOptions { num_threads: Some(1), isa: None }).expect("a processor")
}

/// Parameters that a device draws with.
fn draws() -> SamplingParams {
    SamplingParams { max_tokens: Some(4), temperature: 0.8, ..SamplingParams::default() }
}

/// By name: what a captured step can do whole.
fn plain_requests() -> Vec<(&'static str, SamplingParams)> {
    vec![
        ("all", draws()),
        ("greedy", SamplingParams { temperature: 0.0, ..draws() }),
        ("top_k", SamplingParams { top_k: 7, n: 2, ..draws() }),
        ("top_p", SamplingParams { top_p: 0.7, ..draws() }),
        ("min_p", SamplingParams { min_p: 0.05, temperature: 1.5, ..draws() }),
        ("every cut", SamplingParams { top_k: 40, top_p: 0.9, min_p: 0.01, n: 2, ..draws() }),
    ]
}

/// What needs edits, or reports.
fn other_requests() -> Vec<(&'static str, SamplingParams)> {
    let penalties = SamplingParams {
        repetition_penalty: 1.3,
        frequency_penalty: 0.5,
        presence_penalty: -0.7,
        logprobs: Some(3),
        ..draws()
    };
    let masks = SamplingParams {
        allowed_token_ids: Some((10..40).collect()),
        bad_words_token_ids: vec![vec![11], (12..14).collect()],
        logit_bias: vec![(12, 9.0), (13, 9.5), (20, -3.0), (200, 50.0)],
        ..draws()
    };
    vec![
        ("reports", SamplingParams { logprobs: Some(5), top_k: 20, n: 2, ..draws() }),
        ("greedy reports", SamplingParams { logprobs: Some(0), temperature: 0.0, ..draws() }),
        ("greedy penalties", SamplingParams { temperature: 0.0, ..penalties.clone() }),
        ("penalties", penalties),
        ("masks", masks.clone()),
        ("masks report", SamplingParams { logprobs: Some(VOCAB_SIZE as i32), top_p: 0.8, ..masks }),
        (
            "min_tokens",
            SamplingParams {
                min_tokens: 3,
                stop_token_ids: vec![7],
                logit_bias: vec![(EOS, 40.0), (7, 40.0)],
                ..draws()
            },
        ),
        ("prompt", SamplingParams { prompt_logprobs: Some(2), logprobs: Some(1), ..draws() }),
    ]
}

/// What the device leaves to the host.
fn requests_for_the_host() -> Vec<(&'static str, SamplingParams)> {
    let everything_masked =
        SamplingParams { allowed_token_ids: Some(vec![5]), bad_words_token_ids: vec![vec![5]], ..draws() };
    vec![
        ("vocabulary", SamplingParams { logprobs: Some(-1), prompt_logprobs: Some(-1), ..draws() }),
        ("everything masked", everything_masked),
        ("NaN", SamplingParams { top_k: 3, ..draws() }),
        ("NaN, greedy", SamplingParams { temperature: 0.0, ..draws() }),
        ("NaN, masked", SamplingParams { allowed_token_ids: Some(vec![6, 8]), logprobs: Some(2), ..draws() }),
        ("NaN, prompt", SamplingParams { prompt_logprobs: Some(1), ..draws() }),
    ]
}

/// Logits of a position; the requests named for it meet a NaN at the eighth, or in the prompt.
fn logits_of(name: &str, index: u32, position: usize) -> Vec<f32> {
    let seed = name.bytes().fold(u64::from(index), |seed, byte| (seed * 31 + u64::from(byte)) % 9973);
    let mut logits: Vec<f32> = numbers(VOCAB_SIZE, seed * 64 + position as u64);
    // Every other row has many equal logits.
    let coarse = |logit: f32| if position.is_multiple_of(2) { (4.0 * logit).round() / 4.0 } else { logit };
    logits.iter_mut().for_each(|logit| *logit = coarse(6.0 * *logit));
    if name.starts_with("NaN") && position == if name.ends_with("prompt") { 3 } else { 7 } {
        logits[150] = f32::NAN;
        logits[200] = f32::INFINITY;
    }
    logits
}

/// How a step is given to the sampler.
#[derive(Clone, Copy, PartialEq)]
enum Step {
    Eager,
    /// Those that decode, as a captured graph leaves them.
    Captured,
}

/// What every row of every step gave, and how many of the host's samplers were needed.
fn run(
    backend: &dyn Backend,
    how: Step,
    mode: LogprobsMode,
    requests: &[(&str, SamplingParams)],
) -> (Vec<String>, usize) {
    let mut scheduler = scheduler();
    for (seed, (name, params)) in requests.iter().enumerate() {
        let request = Request {
            request_id: (*name).to_owned(),
            prompt_token_ids: vec![1, 12, 30, 30, 250, 9].into(),
            params: Arc::new(params.clone()),
            priority: 0,
            cache_salt: None,
            seed: seed as u64 + 1,
            pooling: None,
        };
        scheduler.add_request(request).unwrap();
    }
    let mut runner = SamplingRunner::new(vec![EOS], mode);
    let mut given = Vec::new();
    while scheduler.has_unfinished() {
        let output = scheduler.schedule();
        let entries = output.sequences.iter();
        let scheduled: Vec<_> = entries.map(|entry| (entry, scheduler.sequence(entry.seq_id).unwrap())).collect();
        let mut starts = vec![0];
        let mut values = Vec::new();
        for (entry, sequence) in &scheduled {
            for position in entry.num_computed_tokens..entry.num_computed_tokens + entry.num_tokens {
                values.extend(logits_of(sequence.request_id(), sequence.index(), position));
            }
            starts.push((values.len() / VOCAB_SIZE) as u32);
        }
        let logits = backend.tensor(&values, values.len() / VOCAB_SIZE, VOCAB_SIZE).unwrap();
        let drawn =
            runner.drawn_rows(backend, &scheduled).filter(|rows| how == Step::Captured && rows.len() == logits.rows());
        let predictions = drawn.map(|rows| {
            let rows = backend.indices(SamplingRow::pack(&rows)).unwrap();
            let argmax = backend.sampler().unwrap().sample(&logits, &rows).unwrap();
            Predictions { logits: logits.clone(), argmax }
        });
        let computed = predictions.as_ref().map_or(Computed::Hidden(&logits), Computed::Predictions);
        let step = ComputedStep { backend, model: &Identity, computed, starts: &starts, scheduled: &scheduled };
        let mut rows: Vec<SampledRow> = scheduled.iter().map(|_| SampledRow::default()).collect();
        runner.run(&step, &mut rows).unwrap();
        for ((_, sequence), row) in scheduled.iter().zip(&rows) {
            given.push(format!("{} {}: {row:?}", sequence.request_id(), sequence.index()));
        }
        let tokens: Vec<Option<u32>> = rows.iter().map(SampledRow::token_id).collect();
        for (entry, row) in output.sequences.iter().zip(&rows) {
            if row.error().is_some() && !entry.samples {
                scheduler.finish_with_error(entry.seq_id);
            }
        }
        scheduler.update(&output, &tokens);
    }
    (given, lock(&runner.samplers.0).len())
}

fn assert_same(on_device: &[String], on_host: &[String]) {
    for (on_device, on_host) in on_device.iter().zip(on_host) {
        assert_eq!(on_device, on_host);
    }
    assert_eq!(on_device.len(), on_host.len());
}

fn scheduler() -> Scheduler {
    let config = SchedulerConfig {
        max_num_seqs: 64,
        max_num_batched_tokens: 512,
        max_model_len: 64,
        block_size: 16,
        num_blocks: 64,
        sliding_windows: vec![None],
        enable_prefix_caching: false,
        enable_chunked_prefill: true,
        policy: SchedulingPolicy::Fcfs,
        eos_token_ids: vec![EOS],
    };
    Scheduler::new(config).unwrap()
}

#[test]
fn a_device_gives_what_the_host_gives() {
    let requests = [plain_requests(), other_requests()].concat();
    let (cpu, cuda) = (cpu(), cuda());
    for mode in [LogprobsMode::RawLogprobs, LogprobsMode::RawLogits] {
        let (on_host, num_samplers) = run(&cpu, Step::Eager, mode, &requests);
        assert!(num_samplers > 0 && on_host.len() > 40, "{num_samplers}, {}", on_host.len());
        for how in [Step::Eager, Step::Captured] {
            let (on_device, num_samplers) = run(&cuda, how, mode, &requests);
            assert_same(&on_device, &on_host);
            assert_eq!(num_samplers, 0, "no row came to the host");
        }
    }
}

#[test]
fn rows_that_a_device_leaves_to_the_host_hurt_no_others() {
    let (cpu, cuda) = (cpu(), cuda());
    let requests = [requests_for_the_host(), other_requests(), plain_requests()].concat();
    let (on_host, _) = run(&cpu, Step::Eager, LogprobsMode::RawLogprobs, &requests);
    let failed = |error: &str| on_host.iter().filter(|row| row.contains(error)).count();
    assert_eq!((failed("AllMasked { vocab_size: 300 }"), failed("InvalidLogit { token_id: 150, logit: NaN }")), (1, 4));
    for how in [Step::Eager, Step::Captured] {
        let (on_device, num_samplers) = run(&cuda, how, LogprobsMode::RawLogprobs, &requests);
        assert_same(&on_device, &on_host);
        assert_eq!(num_samplers, 1, "one after another, since the device is one");
    }
}

#[test]
fn logprobs_of_changed_logits_come_from_the_host() {
    let (cpu, cuda) = (cpu(), cuda());
    for mode in [LogprobsMode::ProcessedLogprobs, LogprobsMode::ProcessedLogits] {
        let (on_host, _) = run(&cpu, Step::Eager, mode, &other_requests());
        assert_same(&run(&cuda, Step::Captured, mode, &other_requests()).0, &on_host);
    }
}
