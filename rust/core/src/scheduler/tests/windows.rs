//! Groups of layers that see a window only. Blocks of 4 tokens, windows of 6: the next token sees itself and 5 before.

use super::*;

const WINDOW: Option<usize> = Some(6);

fn num_held(scheduler: &Scheduler) -> usize {
    scheduler.stats().num_blocks - scheduler.stats().num_free_blocks
}

/// What a sequence of one request holds after each of its steps, from a prompt of 3 tokens to a length of 53.
fn held_while_it_grows(sliding_windows: &[Option<usize>]) -> Vec<usize> {
    let long = request("a", 0, 3).params(|params| params.max_tokens = Some(50));
    let mut scheduler = setup().windows(sliding_windows).build().with([long]);
    let steps = std::iter::from_fn(|| {
        scheduler.step();
        scheduler.has_unfinished().then(|| num_held(&scheduler))
    });
    steps.collect()
}

#[test]
fn what_a_window_holds_stops_growing() {
    let windowed = held_while_it_grows(&[WINDOW]);
    assert_eq!((windowed.len(), windowed.iter().max()), (49, Some(&3)));
    let full = held_while_it_grows(&[None]);
    assert_eq!(full.last(), Some(&13));
    let both = held_while_it_grows(&[None, WINDOW]);
    assert!(both.iter().zip(full.iter().zip(&windowed)).all(|(both, (full, windowed))| *both == full + windowed));
}

#[test]
fn a_prompt_of_any_length_is_computed_in_the_blocks_of_a_window_and_a_chunk() {
    // 5 positions before a chunk of 5 lie in 4 blocks at most.
    let long = || request("a", 0, 60).params(|params| params.max_tokens = Some(3));
    let mut scheduler = setup().windows(&[WINDOW]).budget(5).blocks(4).build().with([long()]);
    let mut num_steps = 0;
    while scheduler.has_unfinished() {
        scheduler.step();
        num_steps += 1;
    }
    assert_eq!((num_steps, scheduler.stats().num_preemptions), (14, 0));
    let error = setup().windows(&[WINDOW]).budget(5).blocks(3).build().add_request(long()).expect_err("too long");
    assert!(error.to_string().contains("may need 62 tokens"), "{error}");
    assert!(error.to_string().contains("3 blocks of 4 tokens hold of one sequence (12)"), "{error}");
}

#[test]
fn a_step_has_blocks_in_all_groups_or_none() {
    let requests = [request("a", 0, 7), request("b", 100, 7)];
    let mut scheduler = setup().windows(&[None, Some(100)]).blocks(9).build().with(requests);
    scheduler.step();
    scheduler.step();
    assert_eq!(scheduler.stats().num_free_blocks, 1, "a third row of either needs two");
    let output = scheduler.step();
    assert_eq!(scheduler.chunks(&output), chunks(&[("a", 8, 1)]));
    assert_eq!(output.preempted, [scheduler.only_id("b")]);
}

#[test]
fn a_cached_prefix_needs_the_last_window_only() {
    let mut scheduler = setup().windows(&[WINDOW]).budget(8).blocks(10).build().with([request("a", 0, 33)]);
    (0..5).for_each(|_| drop(scheduler.step()));
    scheduler.abort("a");
    // Takes the blocks that were given back first, of a's first tokens.
    scheduler.add_request(request("b", 100, 25)).expect("valid");
    (0..4).for_each(|_| drop(scheduler.step()));
    scheduler.abort("b");
    scheduler.add_request(request("c", 0, 33)).expect("valid");
    assert_eq!(scheduler.step_chunks(), chunks(&[("c", 32, 1)]));
    assert_eq!(num_held(&scheduler), 3);
}

/// The cached prefix of a prompt of 33 tokens that was computed before, less the blocks `lost` (group, row).
fn cached_prefix_without(lost: &[(usize, usize)]) -> usize {
    let mut scheduler = setup().windows(&[None, WINDOW, Some(14)]).build().with([request("a", 0, 33)]);
    scheduler.step();
    let table = scheduler.sequence(scheduler.only_id("a")).expect("running").block_table();
    let lost: Vec<BlockId> = lost.iter().map(|(group, row)| table.get(*group, *row)).collect();
    scheduler.abort("a");
    scheduler.blocks.unregister(&lost);
    scheduler.add_request(request("b", 0, 33)).expect("valid");
    scheduler.schedule();
    scheduler.sequence(scheduler.only_id("b")).expect("running").num_cached_tokens()
}

#[test]
fn the_longest_prefix_that_all_groups_have_is_found() {
    let cases: [(&[(usize, usize)], usize); 9] = [
        (&[], 32),
        (&[(0, 5)], 20),
        // The token at 32 sees rows 6 and 7 through a window of 6, rows 4 to 7 through one of 14.
        (&[(1, 5), (2, 3)], 32),
        (&[(1, 6)], 24),
        (&[(1, 7), (1, 5)], 20),
        (&[(2, 4)], 16),
        (&[(2, 5), (1, 4)], 16),
        (&[(0, 6), (1, 5), (2, 2)], 8),
        (&[(1, 0), (2, 7)], 28),
    ];
    for (lost, expected) in cases {
        assert_eq!(cached_prefix_without(lost), expected, "without {lost:?}");
    }
    assert_eq!(cached_prefix_without(&(0..8).map(|row| (2, row)).collect::<Vec<_>>()), 0);
}

#[test]
fn a_hit_takes_no_blocks_behind_the_window() {
    let mut scheduler = setup().windows(&[None, WINDOW]).build().with([request("a", 0, 33)]);
    scheduler.step();
    scheduler.abort("a");
    scheduler.add_request(request("b", 0, 33)).expect("valid");
    scheduler.schedule();
    let table = scheduler.sequence(scheduler.only_id("b")).expect("running").block_table();
    let held = |group| table.group(group).map(|id| !id.is_null()).collect::<Vec<_>>();
    assert_eq!(held(0), [true; 9]);
    assert_eq!(held(1), [false, false, false, false, false, false, true, true, true]);
    assert_eq!(num_held(&scheduler), 12);
}

#[test]
fn a_preempted_sequence_resumes_behind_what_its_window_no_longer_needs() {
    let mut scheduler = setup().windows(&[WINDOW]).budget(8).build().with([request("a", 0, 33)]);
    (0..6).for_each(|_| drop(scheduler.step()));
    let a = scheduler.only_id("a");
    scheduler.running.retain(|id| *id != a);
    scheduler.preempt(a);
    assert_eq!(num_held(&scheduler), 0);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 32, 3)]));
}

#[test]
fn a_failed_sequence_leaves_nothing_in_the_cache_of_what_it_gave_back() {
    let mut scheduler = setup().windows(&[None, WINDOW]).budget(8).build().with([request("a", 0, 33)]);
    (0..5).for_each(|_| drop(scheduler.step()));
    assert_eq!(scheduler.stats().num_cached_blocks, 16);
    scheduler.finish_with_error(scheduler.only_id("a")).expect("it was running");
    assert_eq!(scheduler.stats().num_cached_blocks, 0);
}

#[test]
fn groups_do_not_take_each_others_blocks_for_their_own() {
    // One group more or less is another model; in one model, the same tokens have a block in each group.
    let mut scheduler = setup().windows(&[None, None]).build().with([request("a", 0, 9)]);
    scheduler.step();
    assert_eq!(scheduler.stats().num_cached_blocks, 4);
    let table = scheduler.sequence(scheduler.only_id("a")).expect("running").block_table();
    assert!((0..2).all(|row| table.get(0, row) != table.get(1, row)));
}

#[test]
fn a_window_of_nothing_and_no_groups_are_refused() {
    let refused = |windows: &[Option<usize>]| Scheduler::new(setup().windows(windows).0).expect_err("refused");
    assert_eq!(refused(&[None, Some(0)]).to_string(), "sliding_windows must be None or at least 1, got 0.");
    assert_eq!(refused(&[]).to_string(), "sliding_windows must be of 1 to 256 groups, got 0.");
}
