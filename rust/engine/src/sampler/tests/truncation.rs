//! top_k, min_p and top_p: which tokens are left, at the boundaries and against the naive reference.

use proptest::prelude::*;

use super::super::truncation::{TopP, draw};
use super::*;

/// The ids left after truncation.
fn kept(logits: &[f32], params: &SamplingParams) -> Vec<usize> {
    let row = reported(logits, &input(params), LogprobsMode::ProcessedLogits);
    (0..row.len()).filter(|token_id| row[*token_id] > MASKED).collect()
}

/// Logits whose softmax is `shares` over their sum.
fn logits_of(shares: &[f32]) -> Vec<f32> {
    shares.iter().map(|share| share.ln()).collect()
}

#[test]
fn top_k_keeps_the_largest_and_every_equal_of_the_kth() {
    let logits = [3.0, 1.0, 2.0, 2.0, 0.0];
    let with = |top_k| kept(&logits, &SamplingParams { top_k, ..SamplingParams::default() });
    assert_eq!(with(1), [0]);
    assert_eq!(with(2), [0, 2, 3]);
    assert_eq!(with(3), [0, 2, 3]);
    assert_eq!(with(4), [0, 1, 2, 3]);
    for all in [0, 5, 6, u32::MAX] {
        assert_eq!(with(all), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn top_p_keeps_the_token_that_crosses_it() {
    let logits = logits_of(&[0.1, 0.5, 0.1, 0.3]);
    let with = |top_p| kept(&logits, &SamplingParams { top_p, ..SamplingParams::default() });
    assert_eq!(with(f32::MIN_POSITIVE), [1]);
    assert_eq!(with(0.49), [1]);
    assert_eq!(with(0.51), [1, 3]);
    assert_eq!(with(0.79), [1, 3]);
    // Of the two equal tokens the lower id comes first.
    assert_eq!(with(0.81), [0, 1, 3]);
    assert_eq!(with(0.89), [0, 1, 3]);
    assert_eq!(with(0.91), [0, 1, 2, 3]);
    assert_eq!(with(1.0), [0, 1, 2, 3]);
}

#[test]
fn top_p_that_is_reached_exactly_takes_no_further_token() {
    let with = |top_p| kept(&[2.0; 8], &SamplingParams { top_p, ..SamplingParams::default() });
    assert_eq!(with(0.25), [0, 1]);
    assert_eq!(with(0.5), [0, 1, 2, 3]);
    assert_eq!(with(0.51), [0, 1, 2, 3, 4]);
}

#[test]
fn top_p_reached_exactly_by_a_larger_weight_takes_no_smaller_one() {
    let cut = |top_p| {
        let mut weights = [0.5, 1.0, 0.25, 0.25];
        TopP::default().apply(&mut weights, top_p);
        weights
    };
    assert_eq!(cut(0.5), [0.0, 1.0, 0.0, 0.0]);
    assert_eq!(cut(0.75), [0.5, 1.0, 0.0, 0.0]);
    assert_eq!(cut(0.875), [0.5, 1.0, 0.25, 0.0]);
}

#[test]
fn min_p_compares_with_the_likeliest() {
    let logits = logits_of(&[0.1, 0.5, 0.15, 0.25]);
    let with = |min_p| kept(&logits, &SamplingParams { min_p, ..SamplingParams::default() });
    assert_eq!(with(0.19), [0, 1, 2, 3]);
    assert_eq!(with(0.21), [1, 2, 3]);
    assert_eq!(with(0.31), [1, 3]);
    assert_eq!(with(0.51), [1]);
    assert_eq!(with(1.0), [1]);
}

#[test]
fn top_p_is_a_share_of_what_top_k_and_min_p_left() {
    let logits = logits_of(&[0.4, 0.3, 0.2, 0.1]);
    // Of all, 0.5 takes two tokens; of the two that top_k leaves (4/7 and 3/7), one.
    let top_p = SamplingParams { top_p: 0.5, ..SamplingParams::default() };
    assert_eq!(kept(&logits, &top_p), [0, 1]);
    assert_eq!(kept(&logits, &SamplingParams { top_k: 2, ..top_p.clone() }), [0]);
    assert_eq!(kept(&logits, &SamplingParams { min_p: 0.6, ..top_p }), [0]);
}

#[test]
fn temperature_comes_before_min_p() {
    // At temperature 1/2 the shares 0.5 and 0.3 become 25 to 9.
    let logits = logits_of(&[0.5, 0.3]);
    let params = SamplingParams { temperature: 0.5, min_p: 0.5, ..SamplingParams::default() };
    assert_eq!(kept(&logits, &params), [0]);
}

#[test]
fn top_k_of_a_large_row_equals_a_full_sort() {
    let mut lcg = Lcg(7);
    // A coarse grid has many equals; 5000 logits are 40 chunks, so k is tried on both sides of that.
    let logits: Vec<f32> = (0..5000).map(|_| lcg.below(700) as f32 * 0.125).collect();
    let mut sorted = logits.clone();
    sorted.sort_by(|a, b| b.total_cmp(a));
    for top_k in [1, 2, 39, 40, 41, 1000, 4999] {
        let threshold = sorted[top_k - 1];
        let expected: Vec<usize> = (0..logits.len()).filter(|id| logits[*id] >= threshold).collect();
        let params = SamplingParams { top_k: top_k as u32, temperature: 2.0, ..SamplingParams::default() };
        assert_eq!(kept(&logits, &params), expected, "top_k {top_k}");
    }
}

#[test]
fn top_p_of_large_rows_equals_a_full_sort() {
    let mut lcg = Lcg(11);
    for scale in [1e-6, 1e-3, 0.1, 1.0, 10.0] {
        let weights: Vec<f32> = lcg.row(20_000, scale).iter().map(|x| (x - scale).exp()).collect();
        for top_p in [0.001, 0.3, 0.9, 0.999] {
            let mut cut = weights.clone();
            TopP::default().apply(&mut cut, top_p);
            let mut order: Vec<usize> = (0..weights.len()).collect();
            order.sort_by(|a, b| weights[*b].total_cmp(&weights[*a]));
            let target = f64::from(top_p) * weights.iter().map(|w| f64::from(*w)).sum::<f64>();
            let mut before = 0.0;
            let mut expected = vec![0.0; weights.len()];
            for &index in &order {
                if before >= target {
                    break;
                }
                expected[index] = weights[index];
                before += f64::from(weights[index]);
            }
            assert!(cut == expected, "scale {scale}, top_p {top_p}");
        }
    }
}

#[test]
fn draw_points_into_the_cumulative_weights_and_never_at_a_zero() {
    let mut scratch = Vec::new();
    let mut at = |weights: &[f32], uniform| draw(weights, uniform, &mut scratch);
    let largest = 1.0 - f64::EPSILON / 2.0;
    assert_eq!(at(&[1.0], 0.0), 0);
    assert_eq!(at(&[1.0], largest), 0);
    assert_eq!(at(&[0.0, 0.5, 0.0, 0.5, 0.0], 0.0), 1);
    assert_eq!(at(&[0.0, 0.5, 0.0, 0.5, 0.0], 0.499), 1);
    assert_eq!(at(&[0.0, 0.5, 0.0, 0.5, 0.0], 0.5), 3);
    assert_eq!(at(&[0.0, 0.5, 0.0, 0.5, 0.0], largest), 3);
    let mut long = vec![0.0; 5000];
    (long[1500], long[1600], long[4001]) = (0.25, 0.25, 0.5);
    assert_eq!(
        [0.0, 0.249, 0.25, 0.499, 0.5, largest].map(|uniform| at(&long, uniform)),
        [1500, 1500, 1600, 1600, 4001, 4001]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Probabilities after all truncations together equal the naive reference. Logits lie on a grid (equals are
    /// common); the parameters are no round numbers, so no boundary is hit to within rounding.
    #[test]
    fn probabilities_equal_the_reference(
        grid in prop::collection::vec(-12_i8..12, 1..400),
        temperature in prop::sample::select(vec![0.31_f32, 0.77, 1.0, 1.93]),
        top_k in prop::sample::select(vec![0_u32, 1, 2, 3, 17, 150, 1000]),
        top_p in prop::sample::select(vec![0.013_f32, 0.3217, 0.7117, 0.9137, 0.99731, 1.0]),
        min_p in prop::sample::select(vec![0.0_f32, 0.0137, 0.1931, 0.773]),
    ) {
        let logits: Vec<f32> = grid.iter().map(|step| f32::from(*step) * 0.5).collect();
        let params = SamplingParams { temperature, top_k, top_p, min_p, ..SamplingParams::default() };
        let expected = reference_probabilities(&logits, &params);
        let logprobs = reported(&logits, &input(&params), LogprobsMode::ProcessedLogprobs);
        for (token_id, (logprob, expected)) in logprobs.iter().zip(&expected).enumerate() {
            let probability = f64::from(*logprob).exp();
            prop_assert!((probability - expected).abs() < 1e-6, "token {}: {} for {}", token_id, probability, expected);
            prop_assert_eq!(*logprob == MASKED, *expected == 0.0, "token {}", token_id);
        }
    }
}
