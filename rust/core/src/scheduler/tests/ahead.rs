//! Steps that are decided before the tokens of the step under way are known.

use super::*;

/// A sequence of `len` tokens that has been computed and whose first token is being sampled.
fn under_way(setup: Setup, len: usize) -> (Scheduler, SchedulerOutput) {
    let mut scheduler = setup.build().with([request("a", 0, len)]);
    let output = scheduler.schedule();
    (scheduler, output)
}

#[test]
fn the_token_to_come_is_computed_at_its_place() {
    let (mut scheduler, first) = under_way(setup(), 4);
    let second = scheduler.schedule_ahead().expect("nothing else to do");
    assert_eq!((scheduler.chunks(&second), second.num_tokens), (chunks(&[("a", 4, 1)]), 1));
    assert!(second.sequences[0].is_ahead && second.sequences[0].samples);
    assert!(scheduler.schedule_ahead().is_none(), "one step ahead, not two");
    assert!(scheduler.schedule().is_empty(), "what is left waits for the token");
    assert_eq!(scheduler.sample(&first, 50)[0].token_id, Some(50));
    let third = scheduler.schedule_ahead().expect("the second is under way");
    assert_eq!(scheduler.chunks(&third), chunks(&[("a", 5, 1)]));
    scheduler.sample(&second, 51);
    scheduler.sample(&third, 52);
    assert_eq!(scheduler.sequence(scheduler.only_id("a")).expect("it goes on").output_token_ids(), [50, 51, 52]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 6, 1)]), "any step may follow");
}

#[test]
fn a_block_filled_ahead_is_found_once_the_step_has_landed() {
    let (mut scheduler, first) = under_way(setup(), 3);
    let second = scheduler.schedule_ahead().expect("nothing else to do");
    scheduler.sample(&first, 50);
    assert_eq!(scheduler.stats().num_cached_blocks, 0, "nobody knows yet that it is filled");
    scheduler.sample(&second, 51);
    assert_eq!(scheduler.stats().num_cached_blocks, 1);
    let mut prompt = request("b", 0, 3);
    prompt.prompt_token_ids = vec![0, 1, 2, 50, 7].into();
    scheduler.add_request(prompt).expect("valid request");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 4, 1), ("b", 4, 1)]));
}

#[test]
fn a_sequence_that_has_ended_meanwhile_keeps_its_blocks_until_the_step_lands() {
    let (mut scheduler, first) = under_way(setup(), 4);
    let second = scheduler.schedule_ahead().expect("nothing else to do");
    assert_eq!(scheduler.sample(&first, EOS)[0].finish, Some(FinishReason::Stop(None)));
    assert_eq!(scheduler.stats().num_free_blocks, 98);
    assert!(scheduler.schedule_ahead().is_none() && scheduler.schedule().is_empty());
    assert!(scheduler.sample(&second, 51).is_empty(), "nobody takes that token in");
    assert_eq!((scheduler.stats().num_free_blocks, scheduler.stats().num_cached_blocks), (100, 1));
}

#[test]
fn what_ends_by_length_is_left_out() {
    let short = request("b", 100, 4).params(|params| params.max_tokens = Some(1));
    let mut scheduler = setup().build().with([request("a", 0, 4), short]);
    let first = scheduler.schedule();
    let second = scheduler.schedule_ahead().expect("a goes on");
    assert_eq!(scheduler.chunks(&second), chunks(&[("a", 4, 1)]));
    assert_eq!(scheduler.sample(&first, 50)[1].finish, Some(FinishReason::Length));

    let (mut scheduler, _) = under_way(setup().model_len(5), 4);
    assert!(scheduler.schedule_ahead().is_none(), "nothing goes on");
}

#[test]
fn whatever_else_is_due_comes_first() {
    let (mut scheduler, _) = under_way(setup().budget(3), 4);
    assert!(scheduler.schedule_ahead().is_none(), "a prompt is not done");

    let (mut scheduler, _) = under_way(setup(), 4);
    scheduler.add_request(request("b", 100, 4)).expect("valid request");
    assert!(scheduler.schedule_ahead().is_none(), "a request can be admitted");

    let (mut scheduler, _) = under_way(setup().seqs(1), 4);
    scheduler.add_request(request("b", 100, 4)).expect("valid request");
    assert!(scheduler.schedule_ahead().is_some(), "it has no place yet");

    let four = |params: &mut SamplingParams| params.max_tokens = Some(4);
    let requests = [request("a", 0, 8).params(four), request("b", 100, 8).params(four)];
    let mut scheduler = setup().blocks(4).build().with(requests);
    let output = scheduler.schedule();
    assert_eq!(scheduler.chunks(&output).len(), 2);
    assert!(scheduler.schedule_ahead().is_none(), "there are no blocks without a preemption");
}

#[test]
fn a_failure_ends_the_sequences_of_both_steps_once() {
    let (mut scheduler, first) = under_way(setup(), 4);
    let second = scheduler.schedule_ahead().expect("nothing else to do");
    assert_eq!(scheduler.fail_step(&first).len(), 1);
    assert!(scheduler.fail_step(&second).is_empty());
    assert_eq!((scheduler.stats().num_free_blocks, scheduler.stats().num_cached_blocks), (100, 0));
}
