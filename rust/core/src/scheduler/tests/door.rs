//! What is refused, and with which words.

use super::*;

fn refusal(setup: Setup, request: Request) -> String {
    let mut scheduler = setup.build();
    let message = scheduler.add_request(request).expect_err("refused").to_string();
    assert!(!scheduler.has_unfinished(), "a refused request leaves nothing behind");
    message
}

#[test]
fn settings_name_field_value_and_range() {
    let mut config = setup().0;
    config.block_size = 0;
    let error = Scheduler::new(config).expect_err("no block size");
    assert_eq!(error.to_string(), "block_size must be at least 1, got 0.");
    let error = Scheduler::new(setup().blocks(1 << 40).0).expect_err("absurd");
    assert_eq!((error.field, error.allowed), ("num_blocks", "less than 2^32 - 1"));
}

#[test]
fn an_empty_prompt_is_refused() {
    assert_eq!(refusal(setup(), request("a", 0, 0)), "The decoder prompt cannot be empty.");
}

#[test]
fn a_prompt_needs_room_for_one_token() {
    let message = refusal(setup().model_len(8), request("a", 0, 8));
    assert!(message.starts_with("The decoder prompt (length 8) plus"), "{message}");
    assert!(message.contains("longer than the maximum model length of 8."), "{message}");
    setup().model_len(8).build().with([request("a", 0, 7)]);
}

#[test]
fn a_request_that_cannot_fit_alone_is_refused() {
    // 3 blocks of 4 hold 12 tokens; the last token sampled needs no place.
    setup().blocks(3).build().with([request("a", 0, 3)]);
    let message = refusal(setup().blocks(3), request("a", 0, 4));
    assert!(
        message.contains("may need 13 tokens")
            && message.contains("its 3 blocks of 4 tokens hold of one sequence (12)"),
        "{message}"
    );
    let unlimited = |request: Request| request.params(|params| params.max_tokens = None);
    refusal(setup().blocks(3), unlimited(request("a", 0, 1)));
    setup().blocks(3).model_len(13).build().with([unlimited(request("a", 0, 1))]);
}

#[test]
fn an_id_is_in_use_until_its_request_is_over() {
    let mut scheduler = setup().build().with([request("a", 0, 3)]);
    let error = scheduler.add_request(request("a", 0, 3)).expect_err("in use");
    assert_eq!(error, AddRequestError::DuplicateRequestId { request_id: "a".to_owned() });
    scheduler.abort("a");
    scheduler.add_request(request("a", 0, 3)).expect("free again");
}

#[test]
fn sampling_parameters_are_verified() {
    let message = refusal(setup(), request("a", 0, 3).params(|params| params.n = 0));
    assert_eq!(message, "n must be at least 1, got 0.");
}
