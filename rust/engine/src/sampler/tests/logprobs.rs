//! Logprobs: values, order, ranks and modes.

use super::super::TokenLogprob;
use super::*;

fn reference_logprob(logits: &[f32], token_id: usize) -> f64 {
    let total: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    f64::from(logits[token_id]) - total.ln()
}

fn logprobs(logits: &[f32], params: &SamplingParams, mode: LogprobsMode) -> Vec<TokenLogprob> {
    let input = SamplerInput { logprobs_mode: mode, ..input(params) };
    sample(logits, &input).expect("sampled").logprobs.expect("logprobs were asked for")
}

fn ids_and_ranks(logprobs: &[TokenLogprob]) -> Vec<(u32, u32)> {
    logprobs.iter().map(|logprob| (logprob.token_id, logprob.rank)).collect()
}

#[test]
fn none_are_given_unless_asked_for() {
    assert_eq!(sample(&[1.0, 2.0], &input(&greedy())).expect("sampled").logprobs, None);
}

#[test]
fn the_chosen_token_comes_first_then_the_likeliest() {
    let with = |logprobs| SamplingParams { logprobs: Some(logprobs), logit_bias: vec![(0, 9.0)], ..greedy() };
    let logits = [1.0, 3.0, 3.0, 2.0];
    let given = |count| ids_and_ranks(&logprobs(&logits, &with(count), LogprobsMode::RawLogprobs));
    assert_eq!(given(0), [(0, 4)]);
    assert_eq!(given(1), [(0, 4), (1, 1)]);
    assert_eq!(given(3), [(0, 4), (1, 1), (2, 1), (3, 3)]);
    let all = [(0, 4), (1, 1), (2, 1), (3, 3), (0, 4)];
    assert_eq!(given(4), all);
    assert_eq!(given(20), all);
    assert_eq!(given(-1), all);
}

#[test]
fn values_are_the_log_softmax_of_the_raw_logits() {
    let logits = Lcg(5).row(5000, 8.0);
    let params = SamplingParams { logprobs: Some(-1), temperature: 0.7, top_k: 3, ..SamplingParams::default() };
    for logprob in logprobs(&logits, &params, LogprobsMode::RawLogprobs) {
        let expected = reference_logprob(&logits, logprob.token_id as usize);
        assert!((f64::from(logprob.logprob) - expected).abs() < 2e-6, "{logprob:?}, expected {expected}");
    }
}

#[test]
fn the_likeliest_of_a_large_row_equal_a_full_sort() {
    let mut lcg = Lcg(6);
    let logits: Vec<f32> = (0..3000).map(|_| lcg.below(900) as f32 * 0.01 - 4.0).collect();
    let mut order: Vec<u32> = (0..3000).collect();
    order.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]));
    let rank = |token_id: u32| 1 + logits.iter().filter(|logit| **logit > logits[token_id as usize]).count() as u32;
    for count in [1, 5, 23, 24, 25, 500, 3000] {
        let params = SamplingParams { logprobs: Some(count), ..SamplingParams::default() };
        let given = ids_and_ranks(&logprobs(&logits, &params, LogprobsMode::RawLogits));
        let chosen = given[0].0;
        let top = order[..count as usize].iter().copied();
        let expected: Vec<(u32, u32)> = std::iter::once(chosen).chain(top).map(|id| (id, rank(id))).collect();
        assert_eq!(given, expected, "{count} logprobs");
    }
}

#[test]
fn modes_report_before_or_after_the_processors() {
    let logits = [0.0, 1.0, 2.0, 3.0];
    let params = SamplingParams {
        bad_words_token_ids: vec![vec![3]],
        logit_bias: vec![(0, 4.0)],
        temperature: 0.5,
        top_k: 2,
        ..SamplingParams::default()
    };
    let row = |mode| reported(&logits, &input(&params), mode);
    assert_eq!(row(LogprobsMode::RawLogits), logits);
    assert_eq!(row(LogprobsMode::ProcessedLogits), [8.0, MASKED, 4.0, MASKED]);
    let normaliser = (1.0 + (-4.0_f32).exp()).ln();
    let [first, second] = [row(LogprobsMode::ProcessedLogprobs)[0], row(LogprobsMode::ProcessedLogprobs)[2]];
    assert!((first + normaliser).abs() < 1e-6 && (second + 4.0 + normaliser).abs() < 1e-6, "{first} {second}");
    let raw = row(LogprobsMode::RawLogprobs);
    for (token_id, logprob) in raw.iter().enumerate() {
        assert!((f64::from(*logprob) - reference_logprob(&logits, token_id)).abs() < 1e-6);
    }
}

#[test]
fn a_masked_token_has_minus_infinity_and_the_last_rank() {
    let params = SamplingParams { logprobs: Some(-1), ..greedy() };
    let given = logprobs(&[MASKED, 1.0, MASKED], &params, LogprobsMode::RawLogprobs);
    assert_eq!(ids_and_ranks(&given), [(1, 1), (1, 1), (0, 2), (2, 2)]);
    assert_eq!(given.iter().map(|logprob| logprob.logprob).collect::<Vec<_>>(), [0.0, 0.0, MASKED, MASKED]);
}

#[test]
fn huge_logits_do_not_overflow() {
    let params = SamplingParams { logprobs: Some(2), ..greedy() };
    let given = logprobs(&[f32::MAX, f32::MAX, f32::MIN], &params, LogprobsMode::RawLogprobs);
    let half = 0.5_f32.ln();
    assert_eq!(given.iter().map(|logprob| logprob.logprob).collect::<Vec<_>>(), [half, half, half]);
}

#[test]
fn prompt_logprobs_rank_the_prompts_own_token() {
    let logits = [0.5, -1.0, 2.0, 1.0];
    let given = Sampler::new().prompt_logprobs(&logits, 0, 2).expect("finite logits");
    assert_eq!(ids_and_ranks(&given), [(0, 3), (2, 1), (3, 2)]);
    for logprob in given {
        let expected = reference_logprob(&logits, logprob.token_id as usize);
        assert!((f64::from(logprob.logprob) - expected).abs() < 1e-6);
    }
    assert_eq!(Sampler::new().prompt_logprobs(&logits, 3, -1).expect("finite logits").len(), 5);
    assert_eq!(
        Sampler::new().prompt_logprobs(&logits, 4, 2),
        Err(SampleError::TokenOutOfVocabulary { token_id: 4, vocab_size: 4 })
    );
}

#[test]
fn mode_names() {
    for mode in LogprobsMode::ALL {
        assert_eq!(mode.to_string().parse(), Ok(mode));
    }
    let error = "raw".parse::<LogprobsMode>().expect_err("no such mode").to_string();
    assert_eq!(
        error,
        "logprobs_mode must be one of raw_logprobs, processed_logprobs, raw_logits, processed_logits; got \"raw\""
    );
}
