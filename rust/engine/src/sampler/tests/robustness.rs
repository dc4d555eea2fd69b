//! Whatever the row and the parameters, the answer is a token that may be drawn or a typed error.

use proptest::prelude::*;

use super::*;

#[test]
fn an_empty_row_is_refused() {
    assert_eq!(sample(&[], &input(&greedy())), Err(SampleError::EmptyVocabulary));
}

#[test]
fn nan_and_infinity_are_refused_wherever_they_stand() {
    for vocab_size in [1, 3, 16, 40, 128, 300] {
        for token_id in 0..vocab_size {
            for bad in [f32::NAN, f32::INFINITY] {
                let mut logits = vec![1.0; vocab_size];
                logits[token_id] = bad;
                for params in [greedy(), SamplingParams::default()] {
                    let error = sample(&logits, &input(&params)).expect_err("refused");
                    let SampleError::InvalidLogit { token_id: named, logit } = error else { panic!("{error}") };
                    assert_eq!((named as usize, logit.is_nan()), (token_id, bad.is_nan()));
                }
                assert!(Sampler::new().prompt_logprobs(&logits, 0, 1).is_err());
            }
        }
    }
    // Also where a mask would have hidden it.
    let params = SamplingParams { allowed_token_ids: Some(vec![0]), ..greedy() };
    let error = sample(&[1.0, f32::NAN], &input(&params)).expect_err("refused");
    assert_eq!(error.to_string(), "the logit of token 1 is NaN; logits must be finite or -inf");
}

#[test]
fn a_row_with_everything_masked_is_refused() {
    let refused = Err(SampleError::AllMasked { vocab_size: 2 });
    assert_eq!(sample(&[MASKED, MASKED], &input(&SamplingParams::default())), refused);
    let banned = SamplingParams { bad_words_token_ids: vec![vec![0], vec![1]], ..greedy() };
    assert_eq!(sample(&[0.0, 1.0], &input(&banned)), refused);
    let allowed = SamplingParams { allowed_token_ids: Some(vec![7]), ..greedy() };
    assert_eq!(sample(&[0.0, 1.0], &input(&allowed)), refused);
}

#[test]
fn a_refused_row_leaves_the_sampler_usable() {
    let mut sampler = Sampler::new();
    let params = SamplingParams::default();
    let mut state = PenaltyState::default();
    assert!(sampler.sample(&[f32::NAN, 1.0], &input(&params), &mut state).is_err());
    let logits = [0.1, 0.2, 0.3];
    assert_eq!(sampler.sample(&logits, &input(&params), &mut state), sample(&logits, &input(&params)));
}

/// A row of one of several shapes, all of them legal.
fn row(lcg: &mut Lcg, vocab_size: usize) -> Vec<f32> {
    let mut logits = match lcg.below(6) {
        0 => lcg.row(vocab_size, 10.0),
        1 => lcg.row(vocab_size, f32::MAX),
        2 => lcg.row(vocab_size, f32::MIN_POSITIVE),
        3 => vec![lcg.symmetric(); vocab_size],
        // Zero-mass tails: one token far above all others.
        4 => {
            let mut logits = vec![-1e30; vocab_size];
            logits[lcg.below(vocab_size)] = 1e30;
            logits
        }
        _ => (0..vocab_size).map(|_| lcg.below(3) as f32).collect(),
    };
    let masked = [0, 1, vocab_size / 2, vocab_size * 2][lcg.below(4)];
    for _ in 0..masked {
        logits[lcg.below(vocab_size)] = MASKED;
    }
    logits
}

fn params(lcg: &mut Lcg, vocab_size: usize) -> SamplingParams {
    let mut ids =
        |bound: usize| -> Vec<u32> { (0..lcg.below(bound)).map(|_| lcg.below(vocab_size + 3) as u32).collect() };
    let (bad_words, stop, biased, allowed) = (ids(4), ids(4), ids(4), ids(2 * vocab_size));
    let extremes = [f32::MAX, f32::MIN, 100.0, -100.0, 0.0];
    SamplingParams {
        temperature: [0.0, 1e-5, 0.01, 1.0, 2.0][lcg.below(5)],
        top_p: [1.0, 0.9, 0.5, f32::MIN_POSITIVE][lcg.below(4)],
        top_k: [0, 1, 5, vocab_size as u32, u32::MAX, 1 + lcg.below(vocab_size) as u32][lcg.below(6)],
        min_p: [0.0, 0.1, 1.0][lcg.below(3)],
        repetition_penalty: [1.0, 1e-38, 1.3, f32::MAX][lcg.below(4)],
        frequency_penalty: [0.0, 2.0, -2.0][lcg.below(3)],
        presence_penalty: [0.0, 2.0, -2.0][lcg.below(3)],
        min_tokens: [0, 10][lcg.below(2)],
        logprobs: [None, Some(0), Some(5), Some(-1)][lcg.below(4)],
        bad_words_token_ids: bad_words.iter().map(|id| vec![*id]).collect(),
        stop_token_ids: stop,
        logit_bias: biased.iter().map(|id| (*id, extremes[lcg.below(5)])).collect(),
        allowed_token_ids: [None, Some(allowed)][lcg.below(2)].clone(),
        ..SamplingParams::default()
    }
}

/// Whether `token_id` may be drawn, from the parameters alone.
fn may_be_drawn(token_id: u32, logits: &[f32], params: &SamplingParams) -> bool {
    logits[token_id as usize] > MASKED
        && params.allowed_token_ids.as_ref().is_none_or(|allowed| allowed.contains(&token_id))
        && !params.bad_words_token_ids.contains(&vec![token_id])
        && (params.min_tokens == 0 || !params.stop_token_ids.contains(&token_id))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, ..ProptestConfig::default() })]

    #[test]
    fn the_token_may_be_drawn(
        vocab_size in prop_oneof![1_usize..4, 1_usize..300, 1_usize..=10_000, 90_000_usize..=100_000],
        seed: u64,
        mode in 0_usize..4,
    ) {
        let mut lcg = Lcg(seed);
        let logits = row(&mut lcg, vocab_size);
        let params = params(&mut lcg, vocab_size);
        let history = [0, 1, vocab_size as u32 - 1, vocab_size as u32, u32::MAX];
        let input = SamplerInput {
            seed,
            prompt_token_ids: &history,
            output_token_ids: &history[..2],
            logprobs_mode: LogprobsMode::ALL[mode],
            ..input(&params)
        };
        match sample(&logits, &input) {
            Ok(sampled) => {
                prop_assert!((sampled.token_id as usize) < vocab_size);
                prop_assert!(may_be_drawn(sampled.token_id, &logits, &params), "{:?}", params);
                for logprob in sampled.logprobs.iter().flatten() {
                    prop_assert!(!logprob.logprob.is_nan() && logprob.logprob < f32::INFINITY);
                    prop_assert!((1..=vocab_size as u32).contains(&logprob.rank));
                }
            }
            Err(error) => {
                prop_assert_eq!(error, SampleError::AllMasked { vocab_size });
                prop_assert!((0..vocab_size as u32).all(|id| !may_be_drawn(id, &logits, &params)));
            }
        }
    }
}
