//! Sharing by content.

use super::*;

fn prefix_cached_tokens(scheduler: &Scheduler, request_id: &str) -> usize {
    scheduler.sequence(scheduler.only_id(request_id)).expect("live").num_cached_tokens()
}

#[test]
fn a_later_request_skips_the_full_blocks_it_shares() {
    let mut scheduler = setup().build().with([request("a", 0, 10)]);
    scheduler.step();
    scheduler.abort("a");
    scheduler.add_request(request("b", 0, 11)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 8, 3)]));
    assert_eq!(prefix_cached_tokens(&scheduler, "b"), 8);
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_cache_queries, stats.prefix_cache_hits), (21, 8));
}

#[test]
fn the_last_token_is_always_computed() {
    let mut scheduler = setup().build().with([request("a", 0, 8)]);
    scheduler.step();
    scheduler.add_request(request("b", 0, 8)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 8, 1), ("b", 4, 4)]));
}

#[test]
fn requests_in_one_step_share_what_it_will_compute() {
    let mut scheduler = setup().build().with([request("a", 0, 10), request("b", 0, 10)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 10), ("b", 8, 2)]));
    let tables = ["a", "b"]
        .map(|id| scheduler.sequence(scheduler.only_id(id)).expect("live").block_table().group(0).collect::<Vec<_>>());
    assert_eq!(tables[0][..2], tables[1][..2]);
    assert_ne!(tables[0][2], tables[1][2], "a partial block is nobody else's");
    assert_eq!(scheduler.stats().num_free_blocks, 96);
}

#[test]
fn the_sequences_of_a_request_share_its_prompt_and_have_seeds_of_their_own() {
    let mut request = request("a", 0, 9).params(|params| params.n = 3);
    request.seed = u64::MAX;
    let mut scheduler = setup().build().with([request]);
    let output = scheduler.schedule();
    assert_eq!(scheduler.chunks(&output), chunks(&[("a", 0, 9), ("a", 8, 1), ("a", 8, 1)]));
    let sequences = output.sequences.iter().map(|s| scheduler.sequence(s.seq_id).expect("running"));
    let identity: Vec<_> = sequences.map(|sequence| (sequence.index(), sequence.seed())).collect();
    assert_eq!(identity, [(0, u64::MAX), (1, 0), (2, 1)]);
    assert_eq!(scheduler.stats().num_free_blocks, 100 - 2 - 3);
}

#[test]
fn a_prefill_under_way_jumps_over_what_another_has_cached() {
    // b's prompt goes on with what a is about to generate.
    let follow_up = (0..11).chain([50; 9]).collect();
    let b = Request { prompt_token_ids: follow_up, ..request("b", 0, 1) };
    let mut scheduler = setup().budget(12).build().with([request("a", 0, 11), b]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 11), ("b", 8, 1)]), "b stops inside its third block");
    scheduler.config.max_num_batched_tokens = 1;
    (0..5).for_each(|_| assert_eq!(scheduler.step_chunks()[0].0, "a"));
    scheduler.config.max_num_batched_tokens = 12;
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 16, 1), ("b", 16, 4)]));
    let tables = ["a", "b"]
        .map(|id| scheduler.sequence(scheduler.only_id(id)).expect("live").block_table().group(0).collect::<Vec<_>>());
    assert_eq!(tables[0][..4], tables[1][..4], "its partial block gave way to the full one");
    assert_eq!(scheduler.stats().num_free_blocks, 100 - 4 - 2);
    assert_eq!((prefix_cached_tokens(&scheduler, "b"), scheduler.stats().prefix_cache_hits), (8, 8 + 7));
}

#[test]
fn other_salts_share_nothing() {
    let requests = [request("a", 0, 9).salted("x"), request("b", 0, 9).salted("y"), request("c", 0, 9)];
    let mut scheduler = setup().build().with(requests);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 9), ("b", 0, 9), ("c", 0, 9)]));
    scheduler.add_request(request("d", 0, 9).salted("y")).expect("valid");
    assert_eq!(scheduler.step_chunks().last(), Some(&("d".to_owned(), 8, 1)));
}

#[test]
fn prompt_logprobs_read_no_cache_but_fill_it() {
    let mut scheduler = setup().build().with([request("a", 0, 9)]);
    scheduler.step();
    let wanted = request("b", 0, 9).params(|params| (params.prompt_logprobs, params.n) = (Some(1), 2));
    scheduler.add_request(wanted).expect("valid");
    let expected = [("a", 9, 1), ("b", 0, 9), ("b", 8, 1)];
    assert_eq!(scheduler.step_chunks(), chunks(&expected), "the first sequence answers for the prompt");
    scheduler.abort("a");
    scheduler.abort("b");
    scheduler.reset_prefix_cache();
    scheduler.add_request(request("c", 0, 9).params(|params| params.prompt_logprobs = Some(1))).expect("valid");
    scheduler.step();
    scheduler.add_request(request("d", 0, 9)).expect("valid");
    assert_eq!(scheduler.step_chunks().last(), Some(&("d".to_owned(), 8, 1)));
}

#[test]
fn without_prefix_caching_nothing_is_shared() {
    let mut scheduler = setup().uncached().build().with([request("a", 0, 9), request("b", 0, 9)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 9), ("b", 0, 9)]));
    let stats = scheduler.stats();
    assert_eq!((stats.prefix_cache_queries, stats.num_cached_blocks), (0, 0));
}

#[test]
fn the_output_is_cached_too() {
    let mut scheduler = setup().build().with([request("a", 0, 6)]);
    (0..4).for_each(|_| drop(scheduler.step()));
    scheduler.abort("a");
    let mut prompt: Vec<u32> = (0..6).collect();
    prompt.extend([50, 50, 50]);
    scheduler.add_request(Request { prompt_token_ids: prompt.into(), ..request("b", 0, 1) }).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 8, 1)]));
}

#[test]
fn the_cache_is_reset_only_while_idle() {
    let mut scheduler = setup().build().with([request("a", 0, 9)]);
    scheduler.step();
    assert!(!scheduler.reset_prefix_cache());
    scheduler.abort("a");
    assert!(scheduler.reset_prefix_cache());
    scheduler.add_request(request("b", 0, 9)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 0, 9)]));
}
