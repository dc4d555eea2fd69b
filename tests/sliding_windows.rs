//! Models whose layers see a window: what they hold of the cache is bounded, and what they compute does not know it.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use rustllm::core::{FinishReason, SamplingParams};
use rustllm::engine::{Engine, EngineConfig, EngineRequest};
use rustllm::ops::DType;
use support::{golden, request, run_on};

/// A model whose layers all see 24 positions; a chunk of 32 behind 23 positions lies in 5 blocks of 16 at most.
fn config(num_blocks: usize) -> EngineConfig {
    let mut config = EngineConfig::new(golden("mistral_sliding_window"));
    (config.dtype, config.num_threads) = (Some(DType::F32), Some(1));
    (config.max_num_seqs, config.max_num_batched_tokens) = (4, Some(32));
    config.num_gpu_blocks_override = Some(num_blocks);
    config
}

fn long_request(id: &str) -> EngineRequest {
    let params = SamplingParams {
        temperature: 0.0,
        max_tokens: Some(40),
        ignore_eos: true,
        logprobs: Some(0),
        ..SamplingParams::default()
    };
    request(id, (0..400).map(|i| i * 31 % 250 + 3).collect(), params)
}

#[test]
fn a_prompt_far_longer_than_the_cache_would_hold_of_it_is_computed() {
    let mut roomy = Engine::load(&config(64), None).unwrap();
    let expected = run_on(&mut roomy, vec![long_request("a")]).sequences.remove(&("a".to_owned(), 0)).unwrap();
    assert_eq!((expected.token_ids.len(), expected.finish_reason), (40, Some(FinishReason::Length)));
    // Five blocks are 80 tokens of full attention; the sequence has 440.
    let mut tight = Engine::load(&config(5), None).unwrap();
    assert_eq!(tight.info().max_model_len, roomy.info().max_model_len);
    let generated = run_on(&mut tight, vec![long_request("a")]).sequences.remove(&("a".to_owned(), 0)).unwrap();
    assert_eq!(generated.bits(), expected.bits());
    assert_eq!(generated.num_preemptions, 0);
    let refused = Engine::load(&EngineConfig { max_model_len: Some(440), ..config(4) }, None).unwrap_err();
    assert!(refused.to_string().contains("needs 5 cache blocks of 16 tokens"), "{refused}");
}

#[test]
fn a_prefix_is_found_by_its_last_window() {
    // What the windows have given back was overwritten: of 400 tokens, 160 at most are in the cache.
    let mut engine = Engine::load(&config(10), None).unwrap();
    let first = run_on(&mut engine, vec![long_request("a")]).sequences.remove(&("a".to_owned(), 0)).unwrap();
    let mut follow_up = long_request("b");
    let prompt = [&follow_up.prompt_token_ids, &first.token_ids[..30]].concat();
    follow_up.prompt_token_ids = prompt.into();
    let generated = run_on(&mut engine, vec![follow_up]).sequences.remove(&("b".to_owned(), 0)).unwrap();
    assert_eq!(generated.num_cached_tokens, 416);
    assert_eq!(generated.bits()[..10], first.bits()[30..]);
}

#[test]
fn running_sequences_hold_a_bounded_part_of_the_cache() {
    let mut engine = Engine::load(&config(64), None).unwrap();
    engine.add_request(long_request("a"));
    let mut most = 0;
    while engine.has_unfinished() {
        engine.step();
        most = most.max(64 - engine.stats().num_free_blocks);
    }
    assert_eq!(most, 4, "chunks of 32 end where blocks do");
}

#[test]
fn layers_of_two_kinds_have_blocks_of_their_own() {
    let load = |case: &str, change: fn(&mut EngineConfig)| {
        let mut config = EngineConfig::new(golden(case));
        config.num_gpu_blocks_override = Some(64);
        change(&mut config);
        Engine::load(&config, None).unwrap().info().clone()
    };
    let windows = |case: &str, change: fn(&mut EngineConfig)| {
        let spec = load(case, change).kv_cache;
        (spec.groups.iter().map(|group| group.kind.sliding_window).collect::<Vec<_>>(), spec.block_size_of(|_| 1))
    };
    assert_eq!(windows("gemma2", |_| {}), (vec![None, Some(24)], 1));
    assert_eq!(windows("gemma2", |config| config.max_model_len = Some(24)), (vec![None], 2), "no window is passed");
    assert_eq!(windows("llama", |_| {}), (vec![None], 2));
    assert_eq!(windows("mistral_sliding_window", |_| {}), (vec![Some(24)], 2));
}

#[test]
fn layers_of_other_heads_take_their_own_bytes() {
    let info = |case: &str| {
        let mut config = EngineConfig::new(golden(case));
        config.num_gpu_blocks_override = Some(64);
        Engine::load(&config, None).unwrap().info().clone()
    };
    let groups = |case: &str| -> Vec<_> {
        let groups = info(case).kv_cache.groups;
        groups.into_iter().map(|group| (group.kind.num_kv_heads, group.kind.head_dim, group.layers)).collect()
    };
    // The last two of four layers read what the first two keep.
    assert_eq!(groups("gemma4"), [(2, 16, vec![1]), (2, 8, vec![0])]);
    assert_eq!(groups("gemma4_experts"), [(1, 16, vec![1]), (2, 8, vec![0])]);
    // Sixteen tokens in float32 of what takes most: two heads of 16, or two of 8 whose values are filled up to 16.
    assert_eq!(info("gemma4").kv_cache_bytes, 64 * 2 * 16 * (16 + 16) * 4);
    assert_eq!(info("gemma4_experts").kv_cache_bytes, 64 * 2 * 16 * (8 + 16) * 4);
}
