//! Masks, bias and penalties, against small rows worked out by hand.

use super::*;

const LOGITS: [f32; 4] = [1.0, 2.0, -1.0, 0.5];

#[test]
fn allowed_token_ids_masks_the_others() {
    let params = SamplingParams { allowed_token_ids: Some(vec![3, 0, 3, 99]), ..greedy() };
    assert_eq!(processed(&LOGITS, &input(&params)), [1.0, MASKED, MASKED, 0.5]);
}

#[test]
fn bad_words_ban_the_last_token_after_its_prefix_in_the_output() {
    let words = vec![vec![1], vec![2, 3], vec![1, 2, 0], vec![9, 9, 9, 9, 2]];
    let params = SamplingParams { bad_words_token_ids: words, ..greedy() };
    let after = |output: &[u32]| processed(&LOGITS, &SamplerInput { output_token_ids: output, ..input(&params) });
    assert_eq!(after(&[]), [1.0, MASKED, -1.0, 0.5]);
    assert_eq!(after(&[2]), [1.0, MASKED, -1.0, MASKED]);
    assert_eq!(after(&[3, 1, 2]), [MASKED, MASKED, -1.0, MASKED]);
    assert_eq!(after(&[1, 2, 3]), [1.0, MASKED, -1.0, 0.5]);
}

#[test]
fn bad_words_do_not_look_at_the_prompt() {
    let params = SamplingParams { bad_words_token_ids: vec![vec![2, 1]], ..greedy() };
    let input = SamplerInput { prompt_token_ids: &[2], ..input(&params) };
    assert_eq!(processed(&LOGITS, &input), LOGITS);
}

#[test]
fn min_tokens_keeps_end_and_stop_tokens_out_until_it_is_reached() {
    let params = SamplingParams { min_tokens: 2, stop_token_ids: vec![1], ignore_eos: true, ..greedy() };
    let after = |output: &[u32]| {
        processed(&LOGITS, &SamplerInput { eos_token_ids: &[3, 77], output_token_ids: output, ..input(&params) })
    };
    assert_eq!(after(&[]), [1.0, MASKED, -1.0, MASKED]);
    assert_eq!(after(&[0]), [1.0, MASKED, -1.0, MASKED]);
    assert_eq!(after(&[0, 0]), LOGITS);
}

#[test]
fn logit_bias_is_added_and_cannot_unmask() {
    let logit_bias = vec![(0, 0.5), (2, -3.0), (3, 100.0), (50, 1.0)];
    let params = SamplingParams { logit_bias, allowed_token_ids: Some(vec![0, 1, 2]), ..greedy() };
    assert_eq!(processed(&LOGITS, &input(&params)), [1.5, 2.0, -4.0, MASKED]);
}

#[test]
fn repetition_penalty_divides_positive_and_multiplies_negative_logits_of_prompt_and_output() {
    let params = SamplingParams { repetition_penalty: 2.0, ..greedy() };
    let input = SamplerInput { prompt_token_ids: &[2, 2], output_token_ids: &[1, 500], ..input(&params) };
    assert_eq!(processed(&LOGITS, &input), [1.0, 1.0, -2.0, 0.5]);
}

#[test]
fn frequency_and_presence_count_the_output_only() {
    let params = SamplingParams { frequency_penalty: 0.25, presence_penalty: 1.0, ..greedy() };
    let input = SamplerInput { prompt_token_ids: &[0, 3], output_token_ids: &[1, 2, 1, 1], ..input(&params) };
    assert_eq!(processed(&LOGITS, &input), [1.0, 0.25, -2.25, 0.5]);
}

#[test]
fn bias_comes_before_penalties_and_repetition_before_the_others() {
    let params = SamplingParams {
        logit_bias: vec![(2, 5.0)],
        repetition_penalty: 2.0,
        frequency_penalty: 0.5,
        presence_penalty: 1.0,
        ..greedy()
    };
    let input = SamplerInput { output_token_ids: &[2], ..input(&params) };
    // -1 + 5 = 4, which is positive: 4 / 2 - 0.5 - 1.
    assert_eq!(processed(&LOGITS, &input), [1.0, 2.0, 0.5, 0.5]);
}

#[test]
fn greedy_takes_the_processed_maximum_and_the_lowest_id_of_equals() {
    assert_eq!(sample(&[0.0, 7.0, 7.0, -3.0, 7.0], &input(&greedy())).expect("sampled").token_id, 1);
    assert_eq!(sample(&[-0.0, 0.0], &input(&greedy())).expect("sampled").token_id, 0);
    let banned = SamplingParams { bad_words_token_ids: vec![vec![1]], ..greedy() };
    assert_eq!(sample(&[0.0, 7.0, 7.0, -3.0, 7.0], &input(&banned)).expect("sampled").token_id, 2);
}

#[test]
fn greedy_finds_the_maximum_wherever_it_stands() {
    for vocab_size in [1, 15, 16, 17, 127, 128, 129, 1000] {
        for position in 0..vocab_size {
            let mut logits = vec![-5.0; vocab_size];
            logits[position] = -4.0;
            assert_eq!(sample(&logits, &input(&greedy())).expect("sampled").token_id as usize, position);
        }
    }
}

#[test]
fn penalty_state_kept_between_steps_equals_one_counted_afresh() {
    let params = SamplingParams {
        repetition_penalty: 1.3,
        frequency_penalty: 0.4,
        presence_penalty: -0.7,
        logprobs: Some(-1),
        ..greedy()
    };
    let logits = Lcg(1).row(50, 3.0);
    let prompt = [4, 4, 9, 49];
    let output = [1, 2, 2, 30, 4, 4, 4, 8];
    let mut kept = PenaltyState::default();
    // The last lengths go back, as after rejected draft tokens.
    for len in [0, 1, 2, 5, 8, 3, 4] {
        let input = SamplerInput {
            prompt_token_ids: &prompt,
            output_token_ids: &output[..len],
            logprobs_mode: LogprobsMode::ProcessedLogits,
            ..input(&params)
        };
        let stepped = Sampler::new().sample(&logits, &input, &mut kept);
        assert_eq!(stepped, sample(&logits, &input), "after {len} output tokens");
    }
}

#[test]
fn a_bias_beyond_float32_forces_or_buries_without_becoming_infinite() {
    let params = SamplingParams { logit_bias: vec![(2, f32::MAX), (1, f32::MIN)], ..greedy() };
    let logits = [0.0, -f32::MAX, f32::MAX, 1.0];
    assert_eq!(processed(&logits, &input(&params)), [0.0, f32::MIN, f32::MAX, 1.0]);
    let random = SamplingParams { temperature: 1.0, ..params };
    assert_eq!(sample(&logits, &input(&random)).expect("sampled").token_id, 2);
}

#[test]
fn a_greedy_row_needs_logits_only_for_what_changes_or_reports_them() {
    let needs_argmax = |params: SamplingParams| input(&params).wants_argmax_only();
    assert!(needs_argmax(greedy()));
    assert!(needs_argmax(SamplingParams { top_k: 3, top_p: 0.5, min_p: 0.1, prompt_logprobs: Some(1), ..greedy() }));
    let others = [
        SamplingParams { temperature: 0.5, ..greedy() },
        SamplingParams { logprobs: Some(0), ..greedy() },
        SamplingParams { allowed_token_ids: Some(vec![1]), ..greedy() },
        SamplingParams { bad_words_token_ids: vec![vec![1]], ..greedy() },
        SamplingParams { min_tokens: 1, ..greedy() },
        SamplingParams { logit_bias: vec![(1, 1.0)], ..greedy() },
        SamplingParams { repetition_penalty: 1.1, ..greedy() },
        SamplingParams { frequency_penalty: 0.1, ..greedy() },
        SamplingParams { presence_penalty: 0.1, ..greedy() },
    ];
    for params in others {
        assert!(!needs_argmax(params.clone()), "{params:?}");
    }
    let past_min_tokens = SamplingParams { min_tokens: 1, ..greedy() };
    assert!(SamplerInput { output_token_ids: &[7], ..input(&past_min_tokens) }.wants_argmax_only());
}
