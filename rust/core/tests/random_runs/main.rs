//! Random runs of the scheduler against a shadow of the KV memory.
//!
//! The scheduler promises that every block a sequence attends to holds that sequence's own prefix, whatever was
//! shared, evicted, preempted, aborted or failed in between. `ShadowEngine` executes each step on a memory that knows
//! for every slot which prefix it was computed from, and looks. The outputs must be those of each sequence alone.

mod shadow;

use proptest::prelude::*;
use rustllm_core::{KvCacheGroups, SchedulerConfig, SchedulingPolicy};

use shadow::{EOS, Job, Loop, ShadowEngine, VOCAB};

const MAX_MODEL_LEN: usize = 48;

#[derive(Clone, Debug)]
enum Op {
    Add(Job),
    /// Add a request, and one whose prompt goes on with what the first will generate.
    AddWithFollowUp(Job),
    Steps(usize),
    /// Abort a live request, picked by the number.
    Abort(usize),
    /// Schedule a step, abort a live request, and only then execute.
    AbortUnderWay(usize),
    /// Execute a step, but one of its sequences comes to nothing.
    FailOne(usize),
    /// A live sequence is ended from outside, between steps.
    FinishWithError(usize),
    /// Schedule a step whose execution fails, perhaps after a request was aborted.
    FailStep(Option<usize>),
    ResetPrefixCache,
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let policy = prop_oneof![Just(SchedulingPolicy::Fcfs), Just(SchedulingPolicy::Priority)];
    (1..6usize, 1..40usize, 1..6usize, sliding_windows(), 0..12usize, any::<bool>(), policy).prop_map(
        |(max_num_seqs, max_num_batched_tokens, block_size, sliding_windows, spare, enable_prefix_caching, policy)| {
            let groups = KvCacheGroups { sliding_windows, block_size, max_num_batched_tokens };
            SchedulerConfig {
                max_num_seqs,
                max_num_batched_tokens,
                max_model_len: MAX_MODEL_LEN,
                block_size,
                num_blocks: groups.max_blocks(MAX_MODEL_LEN - 1) + spare,
                sliding_windows: groups.sliding_windows,
                enable_prefix_caching,
                enable_chunked_prefill: true,
                policy,
                eos_token_ids: vec![EOS],
            }
        },
    )
}

/// One group without a window, or any few.
fn sliding_windows() -> impl Strategy<Value = Vec<Option<usize>>> {
    prop_oneof![
        1 => Just(vec![None]),
        3 => prop::collection::vec(prop::option::weighted(0.7, 1..20usize), 1..4),
    ]
}

/// Prompts are cuts of a few streams, so that many have a prefix in common.
fn job() -> impl Strategy<Value = Job> {
    let prompt = (0..3u32, 1..MAX_MODEL_LEN, 0..4u32).prop_map(|(stream, len, last)| {
        let mut prompt: Vec<u32> = (0..len as u32).map(|i| (i * (stream + 1)) % VOCAB).collect();
        prompt[len - 1] = (prompt[len - 1] + last) % VOCAB;
        prompt
    });
    let max_tokens = prop_oneof![3 => (1..20u32).prop_map(Some), 1 => Just(None)];
    let salt = prop_oneof![3 => Just(None), 1 => Just(Some("a")), 1 => Just(Some("b"))];
    (prompt, 1..4u32, max_tokens, 0..3u32, -1..2i32, salt, 0..3u64, any::<(bool, bool)>()).prop_map(
        |(prompt, n, max_tokens, min_tokens, priority, salt, seed, (ignore_eos, prompt_logprobs))| Job {
            prompt,
            n,
            max_tokens,
            min_tokens: min_tokens.min(max_tokens.unwrap_or(min_tokens)),
            priority,
            salt,
            seed,
            ignore_eos,
            prompt_logprobs,
        },
    )
}

fn order() -> impl Strategy<Value = Loop> {
    prop_oneof![Just(Loop::Simple), Just(Loop::Late), Just(Loop::Ahead)]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => job().prop_map(Op::Add),
        2 => job().prop_map(Op::AddWithFollowUp),
        8 => (1..6usize).prop_map(Op::Steps),
        1 => any::<usize>().prop_map(Op::Abort),
        1 => any::<usize>().prop_map(Op::AbortUnderWay),
        1 => any::<usize>().prop_map(Op::FailOne),
        1 => any::<usize>().prop_map(Op::FinishWithError),
        1 => prop::option::of(any::<usize>()).prop_map(Op::FailStep),
        1 => Just(Op::ResetPrefixCache),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_sequence_reads_its_own_prefix_and_writes_what_it_would_alone(
        config in config(), ops in prop::collection::vec(op(), 1..40), order in order(),
    ) {
        let mut engine = ShadowEngine::new(config, order);
        for op in ops {
            match op {
                Op::Add(job) => engine.add(job),
                Op::AddWithFollowUp(job) => {
                    let follow_up = job.follow_up(MAX_MODEL_LEN);
                    engine.add(job);
                    engine.add(follow_up);
                }
                Op::Steps(count) => (0..count).for_each(|_| engine.step()),
                Op::Abort(pick) => engine.abort(pick),
                Op::AbortUnderWay(pick) => engine.step_aborting(pick),
                Op::FailOne(pick) => engine.step_failing_one(pick),
                Op::FinishWithError(pick) => engine.finish_with_error(pick),
                Op::FailStep(abort) => engine.fail_step(abort),
                Op::ResetPrefixCache => engine.reset_prefix_cache(),
            }
        }
        engine.finish_all();
    }

    /// Without aborts and failures, so that every request must come to its end.
    #[test]
    fn outputs_do_not_depend_on_budget_pool_or_policy(
        config in config(), jobs in prop::collection::vec(job(), 1..12), order in order(),
    ) {
        let mut engine = ShadowEngine::new(config, order);
        let num_sequences: u32 = jobs.iter().map(|job| job.n).sum();
        jobs.into_iter().for_each(|job| engine.add(job));
        engine.finish_all();
        prop_assert_eq!(engine.num_completed(), num_sequences as usize);
    }
}
