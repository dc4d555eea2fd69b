use super::*;

fn message(change: impl FnOnce(&mut SamplingParams)) -> String {
    let mut params = SamplingParams::default();
    change(&mut params);
    params.verify().expect_err("out of range").to_string()
}

fn message_for_model(change: impl FnOnce(&mut SamplingParams)) -> String {
    let mut params = SamplingParams::default();
    change(&mut params);
    params.verify().expect("in range without a model");
    params.verify_for_model(10, 20).expect_err("not for this model").to_string()
}

fn accepts(change: impl FnOnce(&mut SamplingParams)) {
    let mut params = SamplingParams::default();
    change(&mut params);
    assert_eq!(params.verify(), Ok(()));
    assert_eq!(params.verify_for_model(10, 20), Ok(()));
}

#[test]
fn defaults_are_vllms_and_valid() {
    accepts(|_| {});
    let params = SamplingParams::default();
    assert_eq!((params.n, params.max_tokens, params.top_k), (1, Some(16), 0));
    assert_eq!((params.temperature, params.top_p, params.repetition_penalty), (1.0, 1.0, 1.0));
}

#[test]
fn n_is_at_least_1_at_most_128_and_1_when_greedy() {
    assert_eq!(message(|p| p.n = 0), "n must be at least 1, got 0.");
    assert_eq!(message(|p| p.n = 129), "n must be at most 128, got 129.");
    accepts(|p| p.n = 128);
    let greedy = |p: &mut SamplingParams| (p.n, p.temperature) = (2, 0.0);
    assert_eq!(message(greedy), "n must be 1 when using greedy sampling, got 2.");
}

#[test]
fn penalties_have_ranges() {
    assert_eq!(message(|p| p.presence_penalty = 2.5), "presence_penalty must be in [-2, 2], got 2.5.");
    assert_eq!(message(|p| p.frequency_penalty = -3.0), "frequency_penalty must be in [-2, 2], got -3.0.");
    assert_eq!(message(|p| p.repetition_penalty = 0.0), "repetition_penalty must be greater than zero, got 0.0.");
    assert_eq!(
        message(|p| p.repetition_penalty = f32::INFINITY),
        "repetition_penalty must be a finite number, got inf."
    );
    accepts(|p| (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) = (-2.0, 2.0, 0.1));
}

#[test]
fn the_distribution_has_ranges() {
    assert_eq!(message(|p| p.temperature = -1.0), "temperature must be non-negative, got -1.0.");
    assert_eq!(message(|p| p.temperature = 2.1), "temperature must be in [0, 2], got 2.1.");
    assert_eq!(message(|p| p.temperature = f32::NAN), "temperature must be a finite number, got nan.");
    assert_eq!(message(|p| p.top_p = 0.0), "top_p must be in (0, 1], got 0.0.");
    assert_eq!(message(|p| p.top_p = 1.5), "top_p must be in (0, 1], got 1.5.");
    assert_eq!(message(|p| p.min_p = -0.1), "min_p must be in [0, 1], got -0.1.");
    accepts(|p| (p.temperature, p.top_p, p.min_p, p.top_k) = (2.0, 1e-6, 1.0, u32::MAX));
}

#[test]
fn nan_and_infinities_are_refused_everywhere() {
    type Field = fn(&mut SamplingParams) -> &mut f32;
    let fields: [Field; 6] = [
        |p| &mut p.presence_penalty,
        |p| &mut p.frequency_penalty,
        |p| &mut p.repetition_penalty,
        |p| &mut p.temperature,
        |p| &mut p.top_p,
        |p| &mut p.min_p,
    ];
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for field in fields {
            message(|p| *field(p) = value);
        }
        message(|p| p.logit_bias = vec![(1, value)]);
    }
}

#[test]
fn lengths_and_logprobs_have_ranges() {
    assert_eq!(message(|p| p.max_tokens = Some(0)), "max_tokens must be at least 1, got 0.");
    assert_eq!(message(|p| p.min_tokens = 17), "min_tokens must be less than or equal to max_tokens=16, got 17.");
    assert_eq!(message(|p| p.logprobs = Some(-2)), "logprobs must be non-negative or -1, got -2.");
    assert_eq!(message(|p| p.prompt_logprobs = Some(-9)), "prompt_logprobs must be non-negative or -1, got -9.");
    accepts(|p| (p.max_tokens, p.min_tokens) = (None, u32::MAX));
    accepts(|p| (p.logprobs, p.prompt_logprobs) = (Some(-1), Some(0)));
}

#[test]
fn lists_have_contents_and_caps() {
    assert_eq!(message(|p| p.allowed_token_ids = Some(Vec::new())), "allowed_token_ids is not None and empty!");
    let empty = message(|p| p.bad_words_token_ids = vec![vec![1], Vec::new()]);
    assert_eq!(empty, "bad_words entries must tokenize to at least one token.");
    let many = message(|p| p.bad_words_token_ids = vec![vec![1]; 129]);
    assert_eq!(many, "Too many bad words after tokenization: at most 128 sequences, got 129.");
    accepts(|p| p.bad_words_token_ids = vec![vec![1]; 128]);
    let bias = message(|p| p.logit_bias = vec![(3, f32::NAN)]);
    assert_eq!(bias, "logit_bias values must be finite numbers, got nan for token id 3.");
}

#[test]
fn errors_name_field_and_value() {
    let error = SamplingParams { top_p: 7.0, ..SamplingParams::default() }.verify().expect_err("out of range");
    assert_eq!((error.parameter, error.value.as_str()), ("top_p", "7.0"));
}

#[test]
fn ids_must_be_in_the_vocabulary() {
    assert_eq!(
        message_for_model(|p| p.stop_token_ids = vec![3, 10, 11]),
        "token_id(s) [10, 11] in stop_token_ids contain out-of-vocab token ids. Vocabulary size: 10"
    );
    assert_eq!(
        message_for_model(|p| p.logit_bias = vec![(10, 1.0)]),
        "token_id(s) [10] in logit_bias contain out-of-vocab token ids. Vocabulary size: 10"
    );
    assert_eq!(
        message_for_model(|p| p.allowed_token_ids = Some(vec![1, 10])),
        "allowed_token_ids contains out-of-vocab token id!"
    );
    assert_eq!(
        message_for_model(|p| p.bad_words_token_ids = vec![vec![1, u32::MAX]]),
        "token_id(s) [4294967295] in bad_words contain out-of-vocab token ids. Vocabulary size: 10"
    );
    accepts(|p| {
        p.stop_token_ids = vec![9];
        p.logit_bias = vec![(0, -100.0), (9, 100.0)];
        p.allowed_token_ids = Some(vec![0, 9]);
        p.bad_words_token_ids = vec![vec![9, 0]];
    });
}

#[test]
fn lists_are_no_longer_than_the_vocabulary() {
    let message = message_for_model(|p| p.stop_token_ids = vec![1; 11]);
    assert_eq!(message, "stop_token_ids must hold at most vocab_size=10 entries, got 11.");
    message_for_model(|p| p.allowed_token_ids = Some(vec![1; 11]));
    message_for_model(|p| p.logit_bias = (0..11).map(|_| (1, 1.0)).collect());
    let twice = message_for_model(|p| p.logit_bias = vec![(1, 1.0), (1, 2.0)]);
    assert_eq!(twice, "logit_bias names token id 1 more than once.");
}

#[test]
fn messages_about_many_ids_stay_short() {
    let params = SamplingParams { stop_token_ids: (2000..2100).collect(), ..SamplingParams::default() };
    let message = params.verify_for_model(1000, 20).expect_err("out of vocabulary").to_string();
    assert!(message.contains("2009] and 90 more in stop_token_ids"), "{message}");
}

#[test]
fn logprobs_have_the_models_cap() {
    assert_eq!(
        message_for_model(|p| p.logprobs = Some(21)),
        "Requested sample logprobs of 21, which is greater than max allowed: 20"
    );
    assert_eq!(
        message_for_model(|p| p.prompt_logprobs = Some(21)),
        "Requested prompt logprobs of 21, which is greater than max allowed: 20"
    );
    let whole = SamplingParams { logprobs: Some(-1), ..SamplingParams::default() };
    assert_eq!(whole.verify_for_model(20, 20), Ok(()), "-1 asks for the vocabulary");
    assert!(whole.verify_for_model(21, 20).is_err());
    assert_eq!(whole.verify_for_model(100_000, -1), Ok(()), "a cap of -1 is the vocabulary");
}

#[test]
fn greedy_begins_below_1e_5() {
    assert!(SamplingParams { temperature: 0.0, ..SamplingParams::default() }.is_greedy());
    assert!(!SamplingParams { temperature: 1e-5, ..SamplingParams::default() }.is_greedy());
}
