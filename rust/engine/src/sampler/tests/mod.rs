//! Tests of the sampler, and what they share: inputs, processed rows and a naive reference of the truncations.

mod distribution;
mod logprobs;
mod numerics;
mod processors;
mod robustness;
mod truncation;

use rustllm_core::SamplingParams;

use super::{LogprobsMode, PenaltyState, SampleError, SampledToken, Sampler, SamplerInput};

const MASKED: f32 = f32::NEG_INFINITY;

fn greedy() -> SamplingParams {
    SamplingParams { temperature: 0.0, ..SamplingParams::default() }
}

fn input(params: &SamplingParams) -> SamplerInput<'_> {
    SamplerInput {
        params,
        prompt_token_ids: &[],
        output_token_ids: &[],
        eos_token_ids: &[],
        seed: 0,
        logprobs_mode: LogprobsMode::default(),
    }
}

fn sample(logits: &[f32], input: &SamplerInput<'_>) -> Result<SampledToken, SampleError> {
    Sampler::new().sample(logits, input, &mut PenaltyState::default())
}

/// What `mode` reports of every token, by token id.
fn reported(logits: &[f32], input: &SamplerInput<'_>, mode: LogprobsMode) -> Vec<f32> {
    let params = SamplingParams { logprobs: Some(-1), ..input.params.clone() };
    let input = SamplerInput { params: &params, logprobs_mode: mode, ..*input };
    let logprobs =
        sample(logits, &input).expect("a row that can be sampled").logprobs.expect("logprobs were asked for");
    let mut row = vec![f32::NAN; logits.len()];
    for logprob in &logprobs[1..] {
        row[logprob.token_id as usize] = logprob.logprob;
    }
    row
}

/// The row after the processors, before temperature.
fn processed(logits: &[f32], input: &SamplerInput<'_>) -> Vec<f32> {
    let params = SamplingParams { temperature: 0.0, ..input.params.clone() };
    reported(logits, &SamplerInput { params: &params, ..*input }, LogprobsMode::ProcessedLogits)
}

/// The probability of every token under temperature, min_p, top_k and top_p: float64, by sorting, one step after the
/// other.
fn reference_probabilities(logits: &[f32], params: &SamplingParams) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weigh = |logit: &f32| (f64::from(logit - max) / f64::from(params.temperature)).exp();
    let mut weights: Vec<f64> = logits.iter().map(weigh).collect();
    for weight in &mut weights {
        if *weight < f64::from(params.min_p) {
            *weight = 0.0;
        }
    }
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
    if params.top_k > 0 && (params.top_k as usize) < weights.len() {
        let kth = weights[order[params.top_k as usize - 1]];
        for weight in &mut weights {
            if *weight < kth {
                *weight = 0.0;
            }
        }
    }
    if params.top_p < 1.0 {
        let target = f64::from(params.top_p) * weights.iter().sum::<f64>();
        let mut before = 0.0;
        for &token_id in &order {
            let weight = weights[token_id];
            if before >= target {
                weights[token_id] = 0.0;
            }
            before += weight;
        }
    }
    let total: f64 = weights.iter().sum();
    weights.iter().map(|weight| weight / total).collect()
}

/// Random numbers for test data, unrelated to the sampler's own.
struct Lcg(u64);

impl Lcg {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    fn below(&mut self, bound: usize) -> usize {
        self.next() as usize % bound
    }

    /// Uniform in `[-1, 1)`.
    fn symmetric(&mut self) -> f32 {
        self.next() as f32 / (1_u64 << 30) as f32 - 1.0
    }

    /// Logits in `[-scale, scale)`.
    fn row(&mut self, vocab_size: usize, scale: f32) -> Vec<f32> {
        (0..vocab_size).map(|_| self.symmetric() * scale).collect()
    }
}
