//! Budget, queue order, preemption.

use super::*;

#[test]
fn a_long_prompt_is_computed_in_chunks_beside_decodes() {
    let mut scheduler = setup().budget(6).build().with([request("a", 0, 3)]);
    scheduler.step();
    scheduler.add_request(request("b", 100, 12)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 3, 1), ("b", 0, 5)]));
    let output = scheduler.schedule();
    assert_eq!(scheduler.chunks(&output), chunks(&[("a", 4, 1), ("b", 5, 5)]));
    assert_eq!(output.sequences.iter().map(|s| s.samples).collect::<Vec<_>>(), [true, false]);
    let updates = scheduler.sample(&output, 50);
    assert_eq!(updates.len(), 1, "a part of a prompt gives no update");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 5, 1), ("b", 10, 2)]));
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 6, 1), ("b", 12, 1)]));
}

#[test]
fn at_most_max_num_seqs_run() {
    let mut scheduler = setup().seqs(2).build().with(["a", "b", "c"].map(|id| request(id, 0, 3)));
    scheduler.step();
    assert_eq!((scheduler.num_running(), scheduler.num_waiting()), (2, 1));
    scheduler.abort("a");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 3, 1), ("c", 0, 3)]));
}

#[test]
fn fcfs_ignores_priorities() {
    let mut scheduler =
        setup().seqs(1).build().with([request("a", 0, 3).at_priority(5), request("b", 0, 3).at_priority(-5)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 3)]));
}

#[test]
fn lower_priority_values_run_first_and_equals_in_order_of_arrival() {
    let requests = [("a", 1), ("b", 0), ("c", 1), ("d", -1)].map(|(id, p)| request(id, 0, 3).at_priority(p));
    let mut scheduler = setup().priority().build().with(requests);
    assert_eq!(scheduler.step_chunks(), chunks(&[("d", 0, 3), ("b", 0, 3), ("a", 0, 3), ("c", 0, 3)]));
    scheduler.add_request(request("e", 0, 3).at_priority(0)).expect("valid");
    scheduler.step();
    let order: Vec<String> = scheduler.step_chunks().into_iter().map(|(id, ..)| id).collect();
    assert_eq!(order, ["d", "b", "e", "a", "c"]);
}

/// Two sequences that fill 4 blocks with 8 tokens each, and each have a ninth to compute.
fn crowded(setup: Setup, requests: [Request; 2]) -> Scheduler {
    let mut scheduler = setup.blocks(4).build().with(requests);
    scheduler.step();
    scheduler.step();
    assert_eq!(scheduler.stats().num_free_blocks, 0);
    scheduler
}

#[test]
fn the_last_sequence_gives_way_and_resumes_from_the_prefix_cache() {
    let mut scheduler = crowded(setup(), [request("a", 0, 7), request("b", 100, 7)]);
    let b = scheduler.only_id("b");
    let output = scheduler.step();
    assert_eq!(scheduler.chunks(&output), chunks(&[("a", 8, 1)]));
    assert_eq!(output.preempted, [b]);
    let sequence = scheduler.sequence(b).expect("queued");
    assert_eq!((sequence.status(), sequence.num_computed_tokens()), (SequenceStatus::Preempted, 0));
    assert_eq!(sequence.output_token_ids(), [50, 50], "tokens are kept");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 9, 1)]), "3 blocks for b are not there");
    scheduler.abort("a");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 4, 5)]), "a took b's last block, not its first");
    let sequence = scheduler.sequence(b).expect("running");
    assert_eq!((sequence.num_preemptions(), sequence.num_cached_tokens()), (1, 0));
    assert_eq!(scheduler.stats().num_preemptions, 1);
}

#[test]
fn the_worst_priority_gives_way() {
    let requests = [request("a", 0, 7).at_priority(1), request("b", 100, 7).at_priority(0)];
    let mut scheduler = crowded(setup().priority(), requests);
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 8, 1)]));
    assert_eq!(scheduler.sequence(scheduler.only_id("a")).expect("queued").status(), SequenceStatus::Preempted);
}

#[test]
fn the_last_sequence_preempts_itself_when_only_earlier_ones_are_left() {
    // a has room in its last block, b comes to a new one.
    let mut scheduler = crowded(setup(), [request("a", 0, 5), request("b", 100, 7)]);
    let b = scheduler.only_id("b");
    let output = scheduler.step();
    assert_eq!(scheduler.chunks(&output), chunks(&[("a", 6, 1)]));
    assert_eq!(output.preempted, [b]);
}

#[test]
fn a_preempted_sequence_goes_before_those_that_came_later() {
    let mut scheduler = crowded(setup(), [request("a", 0, 7), request("b", 100, 7)]);
    scheduler.add_request(request("c", 200, 3)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 8, 1)]), "no admission in a step that preempted");
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 9, 1)]), "c would fit, but b is first");
    scheduler.abort("a");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 4, 5), ("c", 0, 3)]));
}

#[test]
fn an_admission_waits_until_all_its_tokens_have_room() {
    let mut scheduler = setup().blocks(5).model_len(20).build().with([request("a", 0, 8), request("b", 100, 13)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 8)]), "b needs 4 blocks, 3 are free");
    scheduler.abort("a");
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 0, 13)]));
}
