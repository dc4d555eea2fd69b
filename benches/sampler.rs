//! What sampling one row costs, at a vocabulary of 150,000.

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use rustllm::core::SamplingParams;
use rustllm::engine::sampler::{LogprobsMode, PenaltyState, Sampler, SamplerInput};

const VOCAB_SIZE: usize = 150_000;

/// Logits of about a normal distribution of deviation 2.5, from a linear congruential generator.
fn logits() -> Vec<f32> {
    let mut state = 1_u64;
    let mut uniform = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..VOCAB_SIZE).map(|_| ((0..12).map(|_| uniform()).sum::<f32>() - 6.0) * 2.5).collect()
}

fn bench_case(criterion: &mut Criterion, name: &str, logits: &[f32], params: &SamplingParams) {
    let mut sampler = Sampler::new();
    let mut penalty_state = PenaltyState::default();
    let prompt: Vec<u32> = (0..1000).map(|index| index * 37 % VOCAB_SIZE as u32).collect();
    let mut seed = 0;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            seed += 1;
            let input = SamplerInput {
                params,
                prompt_token_ids: &prompt,
                output_token_ids: &[],
                eos_token_ids: &[],
                seed,
                logprobs_mode: LogprobsMode::RawLogprobs,
            };
            black_box(sampler.sample(black_box(logits), &input, &mut penalty_state).expect("finite logits"))
        });
    });
}

fn bench_sampler(criterion: &mut Criterion) {
    let base = SamplingParams::default;
    let greedy = || SamplingParams { temperature: 0.0, ..base() };
    let normal = logits();
    let flat: Vec<f32> = normal.iter().map(|logit| logit * 0.001).collect();
    let cases = [
        ("greedy", greedy()),
        ("greedy, 5 logprobs", SamplingParams { logprobs: Some(5), ..greedy() }),
        ("greedy, repetition_penalty", SamplingParams { repetition_penalty: 1.1, ..greedy() }),
        ("temperature", base()),
        ("min_p", SamplingParams { min_p: 0.05, ..base() }),
        ("top_k 50", SamplingParams { top_k: 50, ..base() }),
        ("top_k 5000", SamplingParams { top_k: 5000, ..base() }),
        ("top_p 0.9", SamplingParams { top_p: 0.9, ..base() }),
        ("top_k 50, top_p 0.9", SamplingParams { top_k: 50, top_p: 0.9, ..base() }),
        ("temperature, 20 logprobs", SamplingParams { logprobs: Some(20), ..base() }),
    ];
    for (name, params) in &cases {
        bench_case(criterion, name, &normal, params);
    }
    bench_case(criterion, "top_p 0.9, nearly flat", &flat, &SamplingParams { top_p: 0.9, ..base() });
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(50);
    targets = bench_sampler
}
criterion_main!(benches);
