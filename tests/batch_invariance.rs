//! The same request gives the same bits however it was run: alone, in a batch, in chunks, from the prefix cache, after
//! preemption, on any number of threads. In every format of weights and cache, compared by the bits of the logprobs.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use rustllm::core::SamplingParams;
use rustllm::engine::{Engine, EngineConfig, EngineRequest};
use rustllm::ops::{DType, KvCacheDType, WeightFormat};
use support::{Run, golden, request, run, run_on};

const CASES: [&str; 18] = [
    "llama_rope_llama3",
    "qwen3_bf16",
    "gpt2",
    "mistral_sliding_window",
    "gemma2",
    "gemma4",
    "gemma4_experts",
    "glm4",
    "cohere2",
    "phi3",
    "qwen2_moe",
    "deepseek_v3",
    "gpt_oss",
    "bloom",
    "falcon",
    "gpt_neox",
    "mpt",
    "opt_post_norm",
];
/// Of the weights, and of the cache where that is another.
const DTYPES: [(DType, Option<KvCacheDType>); 4] =
    [(DType::F32, None), (DType::BF16, None), (DType::F16, None), (DType::BF16, Some(KvCacheDType::Int8))];
const QUANTIZED: [WeightFormat; 3] = [
    WeightFormat::Int8,
    WeightFormat::Int4 { group_size: 32, symmetric: true },
    WeightFormat::Int4 { group_size: 64, symmetric: false },
];

type Bits = BTreeMap<(String, u32), Vec<(u32, u32)>>;

fn bits(run: &Run) -> Bits {
    run.sequences.iter().map(|(key, generated)| (key.clone(), generated.bits())).collect()
}

fn config(case: &str, dtype: DType, kv_cache_dtype: Option<KvCacheDType>) -> EngineConfig {
    let mut config = EngineConfig::new(golden(case));
    (config.dtype, config.kv_cache_dtype) = (Some(dtype), kv_cache_dtype);
    config.num_gpu_blocks_override = Some(512);
    config.num_threads = Some(2);
    config.max_num_seqs = 16;
    config
}

/// Sixteen prompts of mixed lengths, greedy and sampled. Some share a prefix of 48 tokens, so that prefix caching has work.
fn requests() -> Vec<EngineRequest> {
    const LENGTHS: [usize; 16] = [1, 2, 3, 7, 15, 16, 17, 31, 33, 48, 64, 65, 90, 130, 190, 257];
    LENGTHS
        .iter()
        .enumerate()
        .map(|(i, &len)| {
            let own = |j: usize| if j < 48 && i % 2 == 0 { j * 7 } else { i * 101 + j * 13 };
            let prompt = (0..len).map(|j| (own(j) % 150) as u32 + 3).collect();
            let params = SamplingParams {
                temperature: if i % 3 == 0 { 0.0 } else { 0.9 },
                top_p: if i % 3 == 1 { 0.9 } else { 1.0 },
                repetition_penalty: if i % 4 == 2 { 1.2 } else { 1.0 },
                seed: Some(i as u64),
                max_tokens: Some(24),
                ignore_eos: true,
                logprobs: Some(0),
                ..SamplingParams::default()
            };
            request(&format!("r{i}"), prompt, params)
        })
        .collect()
}

fn alone(config: &EngineConfig) -> Bits {
    let mut config = config.clone();
    config.enable_prefix_caching = false;
    let mut engine = Engine::load(&config, None).unwrap();
    requests().into_iter().flat_map(|request| bits(&run_on(&mut engine, vec![request]))).collect()
}

fn each(check: impl Fn(&str, &EngineConfig, &Bits)) {
    for case in CASES {
        for (dtype, kv_cache_dtype) in DTYPES {
            let config = config(case, dtype, kv_cache_dtype);
            check(&format!("{case} at {dtype}, cache {kv_cache_dtype:?}"), &config, &alone(&config));
        }
        for format in QUANTIZED {
            let mut config = config(case, DType::BF16, None);
            config.quantization = Some(format);
            check(&format!("{case} in {format}"), &config, &alone(&config));
        }
    }
}

#[test]
fn a_batch_of_sixteen_equals_each_alone() {
    each(|what, config, expected| {
        let batch = run(config, requests());
        assert!(batch.stats.num_steps < 60, "{what}: {} steps are not a batch", batch.stats.num_steps);
        assert_eq!(&bits(&batch), expected, "{what}");
    });
}

#[test]
fn greedy_requests_without_logprobs_get_the_tokens_of_those_with() {
    each(|what, config, expected| {
        let mut requests = requests();
        for request in &mut requests {
            let params = Arc::make_mut(&mut request.params);
            // Beside requests whose logits are needed, which stand anywhere in the batch.
            params.logprobs = if params.is_greedy() { None } else { params.logprobs };
        }
        for (key, generated) in run(config, requests).sequences {
            let token_ids: Vec<u32> = expected[&key].iter().map(|(token_id, _)| *token_id).collect();
            assert_eq!(generated.token_ids, token_ids, "{what}, {key:?}");
        }
    });
}

#[test]
fn chunked_prefill_equals_whole_prompts() {
    each(|what, config, expected| {
        let mut config = config.clone();
        (config.max_num_seqs, config.max_num_batched_tokens) = (4, Some(13));
        config.enable_prefix_caching = false;
        assert_eq!(&bits(&run(&config, requests())), expected, "{what}");
    });
}

#[test]
fn prefix_hits_equal_computing_anew() {
    each(|what, config, expected| {
        let mut engine = Engine::load(config, None).unwrap();
        run_on(&mut engine, requests());
        let before = engine.stats().prefix_cache_hits;
        let again = run_on(&mut engine, requests());
        assert!(again.stats.prefix_cache_hits > before + 500, "{what}: the second run hit nothing");
        assert_eq!(&bits(&again), expected, "{what}");
    });
}

#[test]
fn preempted_sequences_equal_undisturbed_ones() {
    each(|what, config, expected| {
        let mut config = config.clone();
        config.max_model_len = Some(300);
        // The longest sequence needs 18 blocks of 16, all together 66. Of layers with a window of 24, whose blocks are others',
        // a sequence needs 5 while its prompt is computed.
        config.max_num_batched_tokens = Some(40);
        config.num_gpu_blocks_override = Some(24);
        let squeezed = run(&config, requests());
        assert!(squeezed.stats.num_preemptions > 0, "{what}: nothing was preempted");
        assert_eq!(&bits(&squeezed), expected, "{what}");
    });
}

#[test]
fn threads_do_not_matter() {
    each(|what, config, expected| {
        for threads in [1, 3] {
            let mut config = config.clone();
            config.num_threads = Some(threads);
            assert_eq!(&bits(&run(&config, requests())), expected, "{what} on {threads} threads");
        }
    });
}
