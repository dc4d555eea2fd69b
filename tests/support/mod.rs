//! Running requests through an engine, step by step, and collecting what they produce.

#![allow(dead_code, reason = "each test binary uses its own part")]

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use rustllm::core::{FinishReason, SamplingParams};
use rustllm::engine::{Engine, EngineConfig, EngineOutput, EngineRequest, EngineStats};
use serde_json::Value;

/// What one sequence produced.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Generated {
    pub prompt_len: usize,
    pub token_ids: Vec<u32>,
    /// Of the chosen tokens.
    pub logprobs: Vec<f32>,
    /// Of the prompt's tokens but the first.
    pub prompt_logprobs: Vec<f32>,
    /// The likeliest tokens at the first position, best first.
    pub top_ids: Vec<u32>,
    pub num_cached_tokens: usize,
    pub num_preemptions: u32,
    pub finish_reason: Option<FinishReason>,
}

impl Generated {
    /// Tokens and logprobs to the bit.
    pub fn bits(&self) -> Vec<(u32, u32)> {
        assert_eq!(self.token_ids.len(), self.logprobs.len());
        self.token_ids.iter().copied().zip(self.logprobs.iter().map(|logprob| logprob.to_bits())).collect()
    }
}

/// What a run produced: sequences by (request id, index).
pub struct Run {
    pub sequences: HashMap<(String, u32), Generated>,
    pub stats: EngineStats,
}

pub fn golden(case: &str) -> PathBuf {
    // Where the tests run, if not where they were compiled.
    let root = std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    root.join("tests/goldens").join(case)
}

/// Every folder with a model and its references, sorted.
pub fn golden_cases() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap());
    let mut cases: Vec<String> = folders
        .filter(|folder| folder.path().join("reference.json").exists())
        .map(|folder| folder.file_name().into_string().unwrap())
        .collect();
    cases.sort();
    cases
}

pub fn numbers<T: serde::de::DeserializeOwned>(array: &Value) -> Vec<T> {
    serde_json::from_value(array.clone()).unwrap()
}

pub fn request(id: &str, prompt: Vec<u32>, params: SamplingParams) -> EngineRequest {
    EngineRequest {
        request_id: id.to_owned(),
        prompt_token_ids: prompt.into(),
        params: Arc::new(params),
        priority: 0,
        cache_salt: None,
    }
}

/// Runs requests that arrive together on a new engine.
pub fn run(config: &EngineConfig, requests: Vec<EngineRequest>) -> Run {
    run_on(&mut Engine::load(config, None).unwrap(), requests)
}

/// Runs requests that arrive together, checking the block accounts after every step.
pub fn run_on(engine: &mut Engine, requests: Vec<EngineRequest>) -> Run {
    run_stepping(engine, requests, Engine::step)
}

/// As [`run_on`], with a loop of the engine's.
pub fn run_stepping(
    engine: &mut Engine,
    requests: Vec<EngineRequest>,
    step: fn(&mut Engine) -> Vec<EngineOutput>,
) -> Run {
    let mut sequences = HashMap::new();
    for request in requests {
        engine.limits().check(&request).unwrap();
        for index in 0..request.params.n {
            let generated = Generated { prompt_len: request.prompt_token_ids.len(), ..Generated::default() };
            sequences.insert((request.request_id.clone(), index), generated);
        }
        engine.add_request(request);
    }
    while engine.has_unfinished() {
        for output in step(engine) {
            let key = (output.request_id.to_string(), output.index);
            append(sequences.get_mut(&key).unwrap(), output);
        }
        engine.check_integrity();
    }
    Run { sequences, stats: engine.stats() }
}

fn append(generated: &mut Generated, output: EngineOutput) {
    if let Some(logprobs) = output.logprobs {
        if generated.token_ids.is_empty() {
            generated.top_ids = logprobs[1..].iter().map(|entry| entry.token_id).collect();
        }
        generated.logprobs.push(logprobs[0].logprob);
    }
    if let Some(entries) = output.prompt_logprobs {
        assert!(entries[0].is_none());
        let scored = entries[1..].iter().map(|entry| entry.as_ref().unwrap()[0].logprob);
        generated.prompt_logprobs.extend(scored);
    }
    generated.token_ids.extend(output.token_id);
    generated.num_cached_tokens = output.num_cached_tokens;
    generated.num_preemptions = output.num_preemptions;
    generated.finish_reason = output.finish_reason;
}
