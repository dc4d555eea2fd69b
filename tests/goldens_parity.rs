//! The whole engine against transformers: every golden checkpoint, tokens equal and logprobs within the stated bound.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use std::path::Path;

use rustllm::core::SamplingParams;
use rustllm::engine::{Device, EngineConfig};
use rustllm::ops::DType;
use serde_json::Value;
use support::{Generated, golden, golden_cases, numbers, request, run};

/// `tests/goldens/README.md` derives it: float32 engines differ by up to 6e-5, and any missing term by 0.1.
const TOLERANCE: f32 = 1e-4;

fn reference(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn assert_close(case: &str, what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{case}: number of {what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= TOLERANCE, "{case}: {what}[{i}] is {a}, transformers has {b}");
    }
}

fn assert_matches(case: &str, prompt: &Value, generated: &Generated) {
    let tokens: Vec<u32> = numbers(&prompt["greedy_token_ids"]);
    assert_eq!(generated.token_ids, tokens, "{case}: greedy tokens of a prompt of {}", generated.prompt_len);
    assert_close(case, "greedy_logprobs", &generated.logprobs, &numbers(&prompt["greedy_logprobs"]));
    assert_close(case, "prompt_logprobs", &generated.prompt_logprobs, &numbers(&prompt["prompt_logprobs"]));
    assert_eq!(generated.top_ids, numbers::<u32>(&prompt["top5_token_ids"]), "{case}: top five");
}

fn check(case: &str, device: Device, longest: usize) {
    let folder = golden(case);
    let reference = reference(&folder);
    let mut config = EngineConfig::new(&folder);
    config.device = device;
    config.dtype = Some(DType::F32);
    config.num_gpu_blocks_override = Some(256);
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: Some(64),
        ignore_eos: true,
        logprobs: Some(5),
        prompt_logprobs: Some(0),
        ..SamplingParams::default()
    };
    let prompts: Vec<&Value> = reference["prompts"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|prompt| prompt["prompt_token_ids"].as_array().unwrap().len() <= longest)
        .collect();
    let requests = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| request(&i.to_string(), numbers(&prompt["prompt_token_ids"]), params.clone()));
    let generated = run(&config, requests.collect());
    for (i, prompt) in prompts.iter().enumerate() {
        assert_matches(case, prompt, &generated.sequences[&(i.to_string(), 0)]);
    }
}

#[test]
fn every_case_on_the_cpu() {
    let cases = golden_cases();
    assert!(cases.len() >= 15, "golden cases are missing: {cases:?}");
    for case in cases {
        check(&case, Device::Cpu, usize::MAX);
    }
}

#[test]
fn one_of_each_kind_on_the_reference() {
    for case in ["llama_rope_llama3", "mistral_sliding_window", "qwen2", "qwen3", "gpt2"] {
        check(case, Device::Reference, 33);
    }
}
