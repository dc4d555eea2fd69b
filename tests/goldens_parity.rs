//! The whole engine against transformers: every golden checkpoint, tokens equal and logprobs within the stated bound.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use std::path::Path;

use rustllm::core::SamplingParams;
use rustllm::engine::{Device, EngineConfig, EngineRequest};
use rustllm::ops::{DType, KvCacheDType};
use rustllm_cuda_simulator::use_cuda_device;
use serde_json::Value;
use support::{Generated, golden, golden_cases, numbers, request, run};

/// `tests/goldens/README.md` derives it: float32 engines differ by up to 6e-5, and any missing term by 0.1.
const TOLERANCE: f32 = 1e-4;

/// What a cache's dtype may move logprobs by, on average and at most: half more than measured (float16 0.0007 and 0.011, bfloat16
/// 0.0056 and 0.053, int8 0.0148 and 0.136). Weights are random, so that nothing is as sure as in a trained model and every
/// rounding shows.
const MOVED: [(KvCacheDType, (f32, f32)); 3] =
    [(KvCacheDType::F16, (0.0011, 0.017)), (KvCacheDType::BF16, (0.0084, 0.08)), (KvCacheDType::Int8, (0.022, 0.21))];

/// What weights and a cache of bfloat16 may move the logprobs of any architecture's prompts by, on average and at most: half more
/// than measured (0.039 and 1.05). The largest are of models where a rounding changes what is chosen: an expert, of random ones.
const BFLOAT16_MOVES: (f32, f32) = (0.06, 1.6);

/// What a smaller cache was measured on.
const CACHED: [&str; 17] = [
    "chat_llama",
    "gpt2",
    "gpt2_unprefixed",
    "llama",
    "llama_bf16",
    "llama_bias",
    "llama_f16",
    "llama_head_dim",
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_sharded",
    "llama_tied",
    "mistral",
    "mistral_sliding_window",
    "qwen2",
    "qwen3",
    "qwen3_bf16",
];

fn reference(folder: &Path) -> Value {
    let text = std::fs::read_to_string(folder.join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The cases that the manifest lists, sorted.
fn listed() -> Vec<String> {
    let manifest = std::fs::read_to_string(golden("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let names = manifest["models"].as_array().unwrap().iter().map(|case| case["name"].as_str().unwrap().to_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

/// What the references of a case were computed for, where it is not the model's own choice.
fn max_model_len(reference: &Value) -> Option<usize> {
    reference.get("max_model_len").map(|len| len.as_u64().unwrap() as usize)
}

fn assert_close(case: &str, what: &str, ours: &[f32], theirs: &[f32]) {
    assert_eq!(ours.len(), theirs.len(), "{case}: number of {what}");
    for (i, (a, b)) in ours.iter().zip(theirs).enumerate() {
        assert!((a - b).abs() <= TOLERANCE, "{case}: {what}[{i}] is {a}, transformers has {b}");
    }
}

fn assert_matches(case: &str, prompt: &Value, generated: &Generated) {
    let (tokens, logprobs): (Vec<u32>, Vec<f32>) =
        (numbers(&prompt["greedy_token_ids"]), numbers(&prompt["greedy_logprobs"]));
    let count = generated.token_ids.len();
    assert_eq!(generated.token_ids, tokens[..count], "{case}: greedy tokens of a prompt of {}", generated.prompt_len);
    assert_close(case, "greedy_logprobs", &generated.logprobs, &logprobs[..count]);
    assert_close(case, "prompt_logprobs", &generated.prompt_logprobs, &numbers(&prompt["prompt_logprobs"]));
    assert_eq!(generated.top_ids, numbers::<u32>(&prompt["top5_token_ids"]), "{case}: top five");
}

/// All prompts of a case, up to the `longest`, each continued by `max_tokens`.
fn check(case: &str, device: Device, (longest, max_tokens): (usize, u32)) {
    let folder = golden(case);
    let reference = reference(&folder);
    let mut config = EngineConfig::new(&folder);
    config.max_model_len = max_model_len(&reference);
    config.device = device;
    config.dtype = Some(DType::F32);
    config.num_gpu_blocks_override = Some(256);
    if matches!(device, Device::Cuda(_)) {
        // The largest step is run to see what memory it takes: here on a processor that plays the GPU.
        (config.max_num_seqs, config.max_num_batched_tokens) = (4, Some(20));
    }
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: Some(max_tokens),
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
    let generated = run(&config, numbered_requests(prompts.iter().copied(), &params));
    for (i, prompt) in prompts.iter().enumerate() {
        assert_matches(case, prompt, &generated.sequences[&(i.to_string(), 0)]);
    }
}

/// A request of each prompt, named by its place.
fn numbered_requests<'a>(prompts: impl IntoIterator<Item = &'a Value>, params: &SamplingParams) -> Vec<EngineRequest> {
    let prompts = prompts.into_iter().map(|prompt| numbers(&prompt["prompt_token_ids"])).enumerate();
    prompts.map(|(i, ids)| request(&i.to_string(), ids, params.clone())).collect()
}

/// How far a run of a case's prompts is from transformers' logprobs.
#[derive(Debug, Default)]
struct Moved {
    sum: f32,
    count: usize,
    largest: f32,
}

impl Moved {
    fn mean(&self) -> f32 {
        self.sum / self.count as f32
    }

    /// Adds the prompts of a case, whose weights and cache are kept as `config` says.
    fn add(&mut self, case: &str, change: impl FnOnce(&mut EngineConfig)) {
        let folder = golden(case);
        let reference = reference(&folder);
        let mut config = EngineConfig::new(&folder);
        config.device = Device::Cpu;
        config.max_model_len = max_model_len(&reference);
        config.num_gpu_blocks_override = Some(256);
        change(&mut config);
        let params = SamplingParams { max_tokens: Some(1), prompt_logprobs: Some(0), ..SamplingParams::default() };
        let prompts = reference["prompts"].as_array().unwrap();
        let generated = run(&config, numbered_requests(prompts, &params));
        for (i, prompt) in prompts.iter().enumerate() {
            let theirs: Vec<f32> = numbers(&prompt["prompt_logprobs"]);
            let ours = &generated.sequences[&(i.to_string(), 0)].prompt_logprobs;
            assert_eq!(ours.len(), theirs.len(), "{case}");
            for (a, b) in ours.iter().zip(&theirs) {
                self.sum += (a - b).abs();
                self.count += 1;
                self.largest = self.largest.max((a - b).abs());
            }
        }
    }
}

/// How far a cache of another dtype moves the logprobs of float32 models' prompts.
fn moved_by(kv_cache_dtype: KvCacheDType) -> (f32, f32) {
    let mut moved = Moved::default();
    for case in CACHED {
        moved.add(case, |config| (config.dtype, config.kv_cache_dtype) = (Some(DType::F32), Some(kv_cache_dtype)));
    }
    (moved.mean(), moved.largest)
}

#[test]
fn bfloat16_weights_are_near() {
    for case in golden_cases() {
        let mut moved = Moved::default();
        moved.add(&case, |config| config.dtype = Some(DType::BF16));
        println!("{case}: mean {}, largest {}", moved.mean(), moved.largest);
        assert!(moved.mean() < BFLOAT16_MOVES.0, "{case}: {moved:?}");
        assert!(moved.largest < BFLOAT16_MOVES.1, "{case}: {moved:?}");
    }
}

#[test]
fn a_smaller_cache_is_near() {
    for (dtype, (mean_bound, largest_bound)) in MOVED {
        let (mean, largest) = moved_by(dtype);
        println!("{dtype}: mean {mean}, largest {largest}");
        assert!(mean > mean_bound / 4.0, "{dtype}: rounded less than it should: {mean}");
        assert!(mean < mean_bound && largest < largest_bound, "{dtype}: mean {mean}, largest {largest}");
    }
}

#[test]
fn every_case_on_the_cpu() {
    let cases = golden_cases();
    assert_eq!(cases, listed(), "the folders there are, and those the manifest lists");
    for case in cases {
        check(&case, Device::Cpu, (usize::MAX, 64));
    }
}

#[test]
fn one_of_each_kind_on_the_reference() {
    let first = ["llama_rope_llama3", "mistral_sliding_window", "qwen2", "qwen3", "gpt2", "gemma2", "olmo2", "cohere2"];
    let classics = ["bloom", "falcon_new_decoder", "gpt_neox", "gptj", "mpt_clip", "opt_post_norm"];
    let mixtures = ["qwen2_moe", "deepseek_v3"];
    for case in first.into_iter().chain(classics).chain(mixtures) {
        check(case, Device::Reference, (33, 64));
    }
}

/// Prompts whole and in chunks; of the steps of one token, the first two are computed as prompts are, the last by a captured graph.
#[test]
fn every_case_on_cuda() {
    use_cuda_device();
    for case in golden_cases() {
        check(&case, Device::Cuda(0), (17, 4));
    }
}
