//! Statistics of the draws against exact distributions, and what a draw may depend on.
//!
//! Every test draws with fixed seeds, so it passes always or never. The bound is chi-square's critical value at a
//! significance of 0.001 for the test's degrees of freedom.

use super::*;

const NUM_DRAWS: u64 = 20_000;

/// Critical values of chi-square at significance 0.001, for 1, 2, ... degrees of freedom.
const CRITICAL: [f64; 16] = [
    10.828, 13.816, 16.266, 18.467, 20.515, 22.458, 24.322, 26.124, 27.877, 29.588, 31.264, 32.909, 34.528, 36.123,
    37.697, 39.252,
];

/// Asserts that `counts` fit `probabilities`, and that nothing of probability zero was drawn.
fn assert_fits(counts: &[u64], probabilities: &[f64]) {
    let num_draws = counts.iter().sum::<u64>() as f64;
    let mut statistic = 0.0;
    let mut cells = 0;
    for (&count, &probability) in counts.iter().zip(probabilities) {
        if probability == 0.0 {
            assert_eq!(count, 0, "a dropped token was drawn");
            continue;
        }
        let expected = num_draws * probability;
        assert!(expected >= 5.0, "too few draws for chi-square");
        statistic += (count as f64 - expected).powi(2) / expected;
        cells += 1;
    }
    if cells > 1 {
        assert!(statistic < CRITICAL[cells - 2], "chi-square {statistic} with {} degrees of freedom", cells - 1);
    }
}

fn assert_draws_fit(logits: &[f32], params: &SamplingParams) {
    let mut sampler = Sampler::new();
    let mut counts = vec![0; logits.len()];
    for seed in 0..NUM_DRAWS {
        let input = SamplerInput { seed, ..input(params) };
        let token = sampler.sample(logits, &input, &mut PenaltyState::default()).expect("finite logits");
        counts[token.token_id as usize] += 1;
    }
    assert_fits(&counts, &reference_probabilities(logits, params));
}

const LOGITS: [f32; 9] = [0.3, -1.2, 2.0, 1.1, MASKED, 0.9, 1.1, -2.0, 0.0];

#[test]
fn temperature() {
    for temperature in [0.7, 1.0, 2.0] {
        assert_draws_fit(&LOGITS, &SamplingParams { temperature, ..SamplingParams::default() });
    }
}

#[test]
fn top_k_with_equals_at_the_boundary() {
    for top_k in [1, 2, 3, 4] {
        assert_draws_fit(&LOGITS, &SamplingParams { top_k, ..SamplingParams::default() });
    }
}

#[test]
fn top_p() {
    for top_p in [0.1, 0.45, 0.7, 0.95] {
        assert_draws_fit(&LOGITS, &SamplingParams { top_p, ..SamplingParams::default() });
    }
}

#[test]
fn min_p() {
    for min_p in [0.05, 0.25, 0.5] {
        assert_draws_fit(&LOGITS, &SamplingParams { min_p, ..SamplingParams::default() });
    }
}

#[test]
fn all_together() {
    let params = SamplingParams { temperature: 1.5, top_k: 6, top_p: 0.9, min_p: 0.1, ..SamplingParams::default() };
    assert_draws_fit(&LOGITS, &params);
}

#[test]
fn equal_logits_are_equally_likely_across_a_large_vocabulary() {
    let mut counts = [0_u64; 10];
    let logits = vec![3.5; 10_000];
    let params = SamplingParams::default();
    let mut sampler = Sampler::new();
    for seed in 0..5000 {
        let input = SamplerInput { seed, ..input(&params) };
        let token = sampler.sample(&logits, &input, &mut PenaltyState::default()).expect("finite logits");
        counts[token.token_id as usize / 1000] += 1;
    }
    assert_fits(&counts, &[0.1; 10]);
}

/// The token of each position 0, 1, ... of a sequence that starts with an empty prompt.
fn tokens_by_position(logits: &[f32], seed: u64, len: usize) -> Vec<usize> {
    let params = SamplingParams::default();
    let mut sampler = Sampler::new();
    let mut output = Vec::new();
    for _ in 0..len {
        let input = SamplerInput { seed, output_token_ids: &output, ..input(&params) };
        let token = sampler.sample(logits, &input, &mut PenaltyState::default()).expect("finite logits");
        output.push(token.token_id);
    }
    output.iter().map(|token_id| *token_id as usize).collect()
}

#[test]
fn neighbouring_positions_and_seeds_are_independent() {
    let logits = [0.0; 4];
    let tokens = tokens_by_position(&logits, 42, 4001);
    let other_seed = tokens_by_position(&logits, 43, 4000);
    let mut by_position = [0_u64; 16];
    let mut by_seed = [0_u64; 16];
    for index in 0..4000 {
        by_position[tokens[index] * 4 + tokens[index + 1]] += 1;
        by_seed[tokens[index] * 4 + other_seed[index]] += 1;
    }
    assert_fits(&by_position, &[1.0 / 16.0; 16]);
    assert_fits(&by_seed, &[1.0 / 16.0; 16]);
}

#[test]
fn a_token_depends_on_seed_and_position_only() {
    let mut lcg = Lcg(3);
    let logits = lcg.row(700, 2.0);
    let params = SamplingParams { top_p: 0.95, logprobs: Some(3), ..SamplingParams::default() };
    let mut shared = Sampler::new();
    for step in 0..200_u32 {
        let output: Vec<u32> = (0..step).collect();
        let own = SamplerInput { seed: 9, prompt_token_ids: &[5, 6], output_token_ids: &output, ..input(&params) };
        let alone = sample(&logits, &own).expect("finite logits");
        // Other rows, other sizes, other parameters on the same sampler in between.
        let other_len = 1 + lcg.below(3000);
        let other = lcg.row(other_len, 5.0);
        let top_k = SamplingParams { top_k: 7, repetition_penalty: 1.5, ..params.clone() };
        shared.sample(&other, &SamplerInput { params: &top_k, ..own }, &mut PenaltyState::default()).expect("sampled");
        let beside = shared.sample(&logits, &own, &mut PenaltyState::default()).expect("finite logits");
        assert_eq!(alone, beside);
        // The same position, reached with one more prompt token and one less output token.
        if let Some((_, fewer)) = output.split_last() {
            let shifted = SamplerInput { prompt_token_ids: &[5, 6, 7], output_token_ids: fewer, ..own };
            assert_eq!(sample(&logits, &shifted).expect("finite logits").token_id, alone.token_id);
        }
    }
}

#[test]
fn the_first_tokens_of_a_seed_are_pinned() {
    let logits = Lcg(1).row(1000, 4.0);
    let tokens = tokens_by_position(&logits, 1234, 12);
    // The same as from Philox, a float64 softmax and its running sum, computed apart from this code.
    assert_eq!(tokens, [863, 125, 984, 166, 921, 223, 685, 444, 231, 57, 656, 207]);
}
