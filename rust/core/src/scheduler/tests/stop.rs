//! How sequences end.

use super::*;

fn finish_after(params: impl FnOnce(&mut SamplingParams), tokens: &[u32]) -> Option<FinishReason> {
    let mut scheduler = setup().build().with([request("a", 0, 3).params(params)]);
    let mut finish = None;
    for token in tokens {
        assert_eq!(finish, None, "ended before token {token}");
        let output = scheduler.schedule();
        finish = scheduler.sample(&output, *token)[0].finish;
    }
    finish
}

#[test]
fn eos_ends_a_sequence_unless_ignored() {
    assert_eq!(finish_after(|_| {}, &[1, EOS]), Some(FinishReason::Stop(None)));
    assert_eq!(finish_after(|params| params.ignore_eos = true, &[1, EOS]), None);
}

#[test]
fn stop_tokens_end_a_sequence_and_are_named() {
    let stop = |params: &mut SamplingParams| params.stop_token_ids = vec![9, 5, 7];
    assert_eq!(finish_after(stop, &[1, 5]), Some(FinishReason::Stop(Some(5))));
    assert_eq!(finish_after(stop, &[1, 6]), None);
    let ignoring = |params: &mut SamplingParams| (params.ignore_eos, params.stop_token_ids) = (true, vec![5]);
    assert_eq!(finish_after(ignoring, &[5]), Some(FinishReason::Stop(Some(5))), "ignore_eos is about eos only");
}

#[test]
fn nothing_stops_before_min_tokens() {
    let three = |params: &mut SamplingParams| (params.min_tokens, params.stop_token_ids) = (3, vec![5]);
    assert_eq!(finish_after(three, &[EOS, 5]), None);
    assert_eq!(finish_after(three, &[EOS, 5, 5]), Some(FinishReason::Stop(Some(5))));
}

#[test]
fn max_tokens_and_the_models_length_end_a_sequence() {
    assert_eq!(finish_after(|params| params.max_tokens = Some(2), &[1, 2]), Some(FinishReason::Length));
    let mut scheduler = setup().model_len(5).build().with([request("a", 0, 3)]);
    scheduler.step();
    let output = scheduler.schedule();
    assert_eq!(scheduler.sample(&output, 1)[0].finish, Some(FinishReason::Length));
    let stopped = setup().model_len(4).build().with([request("a", 0, 3)]).first_update(EOS);
    assert_eq!(stopped.finish, Some(FinishReason::Stop(None)), "a stop is a stop, even at the last place");
}

impl Scheduler {
    fn first_update(mut self, token: u32) -> SequenceUpdate {
        let output = self.schedule();
        self.sample(&output, token).remove(0)
    }
}

#[test]
fn updates_say_whose_token_it_is_and_when_the_request_is_over() {
    let mut scheduler = setup().build().with([request("a", 0, 3).params(|params| params.n = 2)]);
    let output = scheduler.schedule();
    let updates = scheduler.update(&output, &[Some(EOS), Some(8)]);
    let [first, second] = &updates[..] else { panic!("two updates: {updates:?}") };
    assert_eq!((&*first.request_id, first.index, first.token_id), ("a", 0, Some(EOS)));
    assert_eq!((first.finish, first.request_finished), (Some(FinishReason::Stop(None)), false));
    assert_eq!((second.index, second.token_id, second.finish), (1, Some(8), None));
    assert!(scheduler.has_unfinished());
    let output = scheduler.schedule();
    let last = scheduler.update(&output, &[Some(EOS)]).remove(0);
    assert!(last.request_finished && !scheduler.has_unfinished());
}

#[test]
fn a_finished_sequence_frees_its_blocks_and_is_readable_until_the_next_step() {
    let mut scheduler = setup().build().with([request("a", 0, 9), request("b", 200, 9)]);
    let a = scheduler.only_id("a");
    let output = scheduler.schedule();
    scheduler.update(&output, &[Some(EOS), Some(1)]);
    assert_eq!(scheduler.stats().num_free_blocks, 97);
    assert_eq!(scheduler.sequence(a).expect("readable").output_token_ids(), [EOS]);
    scheduler.schedule();
    assert!(scheduler.sequence(a).is_none());
}

#[test]
fn aborted_requests_leave_at_once_wherever_they_are() {
    let mut scheduler = setup().seqs(1).build().with([request("a", 0, 9), request("b", 200, 9)]);
    scheduler.step();
    let ids = [scheduler.only_id("a"), scheduler.only_id("b")];
    assert_eq!([scheduler.abort("a"), scheduler.abort("b")].concat(), ids);
    assert!(scheduler.abort("a").is_empty() && scheduler.abort("unknown").is_empty());
    assert!(!scheduler.has_unfinished());
    assert_eq!(scheduler.stats().num_free_blocks, 100);
    assert!(scheduler.schedule().is_empty());
}

#[test]
fn one_sequence_of_a_request_can_be_aborted() {
    let mut scheduler = setup().build().with([request("a", 20, 9).params(|params| params.n = 2)]);
    scheduler.step();
    let aborted = scheduler.abort_sequence("a", 1).expect("it runs");
    assert_eq!(scheduler.sequence(aborted).map(Sequence::index), Some(1));
    assert!(scheduler.abort_sequence("a", 1).is_none() && scheduler.abort_sequence("a", 2).is_none());
    assert_eq!(scheduler.num_running(), 1);
    while scheduler.has_unfinished() {
        scheduler.step();
    }
    assert_eq!(scheduler.stats().num_free_blocks, 100);
}

#[test]
fn an_abort_under_way_keeps_the_blocks_until_the_step_lands() {
    let mut scheduler = setup().build().with([request("a", 0, 9), request("b", 0, 9)]);
    let a = scheduler.only_id("a");
    let output = scheduler.schedule();
    scheduler.abort("a");
    let sequence = scheduler.sequence(a).expect("the step still needs it");
    assert_eq!((sequence.block_table().num_rows(), sequence.num_computed_tokens()), (3, 9), "b reads what a writes");
    let updates = scheduler.sample(&output, 50);
    assert_eq!(updates.iter().map(|update| &*update.request_id).collect::<Vec<_>>(), ["b"]);
    assert_eq!(scheduler.stats().num_free_blocks, 97);
}

#[test]
fn a_sequence_that_got_no_token_fails_alone() {
    let mut scheduler = setup().build().with([request("a", 0, 9), request("b", 200, 9)]);
    let output = scheduler.schedule();
    let updates = scheduler.update(&output, &[None, Some(1)]);
    let ends: Vec<_> = updates.iter().map(|update| (update.token_id, update.finish)).collect();
    assert_eq!(ends, [(None, Some(FinishReason::Error)), (Some(1), None)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 9, 1)]));
}

#[test]
fn a_failed_sequence_leaves_nothing_in_the_cache() {
    let mut scheduler = setup().build().with([request("a", 0, 9)]);
    scheduler.step();
    let update = scheduler.finish_with_error(scheduler.only_id("a")).expect("it was running");
    assert_eq!((update.finish, update.request_finished), (Some(FinishReason::Error), true));
    assert!(scheduler.finish_with_error(update.seq_id).is_none(), "it is over");
    scheduler.add_request(request("b", 0, 9)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 0, 9)]));
}

#[test]
fn a_failed_step_ends_its_sequences_and_is_forgotten_by_the_cache() {
    let mut scheduler =
        setup().budget(30).build().with([request("a", 0, 9), request("b", 100, 9), request("c", 200, 20)]);
    let output = scheduler.schedule();
    scheduler.abort("a");
    let updates = scheduler.fail_step(&output);
    assert!(updates.iter().all(|update| update.finish == Some(FinishReason::Error) && update.token_id.is_none()));
    assert_eq!(updates.iter().map(|update| &*update.request_id).collect::<Vec<_>>(), ["b", "c"]);
    let stats = scheduler.stats();
    assert_eq!((stats.num_free_blocks, stats.num_cached_blocks), (100, 0));
}

#[test]
#[should_panic(expected = "an output is taken in once")]
fn an_output_is_taken_in_once() {
    let mut scheduler = setup().build().with([request("a", 0, 9)]);
    let output = scheduler.schedule();
    scheduler.sample(&output, 1);
    scheduler.sample(&output, 1);
}

#[test]
fn requests_aborted_before_any_step_do_not_pile_up() {
    let mut scheduler = setup().build();
    for _ in 0..100 {
        scheduler.add_request(request("a", 0, 9)).expect("valid");
        scheduler.abort("a");
    }
    assert_eq!(scheduler.finished.len(), 1);
    assert_eq!(scheduler.sequences.iter().count(), 1);
}
