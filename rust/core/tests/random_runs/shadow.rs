//! An engine whose model is a hash of the prefix and whose KV memory remembers what was written.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustllm_core::{
    FinishReason, Request, SamplingParams, ScheduledSequence, Scheduler, SchedulerConfig, SchedulerOutput, SeqId,
    Sequence, SequenceStatus, SequenceUpdate,
};

pub const VOCAB: u32 = 23;
pub const EOS: u32 = 7;
const STOP: u32 = 11;

/// A request of a test.
#[derive(Clone, Debug)]
pub struct Job {
    pub prompt: Vec<u32>,
    pub n: u32,
    pub max_tokens: Option<u32>,
    pub min_tokens: u32,
    pub priority: i32,
    pub salt: Option<&'static str>,
    pub seed: u64,
    pub ignore_eos: bool,
    pub prompt_logprobs: bool,
}

impl Job {
    /// A request whose prompt is this one's prompt and output.
    pub fn follow_up(&self, max_model_len: usize) -> Self {
        let mut prompt = self.prompt.clone();
        prompt.extend(self.alone(0, max_model_len).0);
        prompt.truncate(max_model_len - 1);
        Self { prompt, n: 1, ..self.clone() }
    }

    fn request(&self, request_id: &str) -> Request {
        let params = SamplingParams {
            n: self.n,
            max_tokens: self.max_tokens,
            min_tokens: self.min_tokens,
            ignore_eos: self.ignore_eos,
            stop_token_ids: vec![STOP],
            prompt_logprobs: self.prompt_logprobs.then_some(1),
            ..SamplingParams::default()
        };
        Request {
            request_id: request_id.to_owned(),
            prompt_token_ids: self.prompt.clone().into(),
            params: Arc::new(params),
            priority: self.priority,
            cache_salt: self.salt.map(str::to_owned),
            seed: self.seed,
            pooling: None,
        }
    }

    /// What sequence `index` must give, from the rules alone.
    fn alone(&self, index: u32, max_model_len: usize) -> (Vec<u32>, FinishReason) {
        let mut tokens = self.prompt.clone();
        loop {
            let state = *prefix_states(self.salt, &tokens).last().expect("a prompt has a token");
            let token = next_token(state, self.seed + u64::from(index));
            tokens.push(token);
            let output = &tokens[self.prompt.len()..];
            let may_stop = output.len() as u32 >= self.min_tokens;
            let finish = if may_stop && token == EOS && !self.ignore_eos {
                FinishReason::Stop(None)
            } else if may_stop && token == STOP {
                FinishReason::Stop(Some(STOP))
            } else if self.max_tokens == Some(output.len() as u32) || tokens.len() == max_model_len {
                FinishReason::Length
            } else {
                continue;
            };
            return (output.to_vec(), finish);
        }
    }
}

fn mix(state: u64, value: u64) -> u64 {
    let mixed = (state ^ value).wrapping_add(0x9E37_79B9_7F4A_7C15).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed ^ (mixed >> 29)
}

/// For each token, a fingerprint of everything up to it: what its keys and values depend on, and the salt.
fn prefix_states(salt: Option<&str>, tokens: &[u32]) -> Vec<u64> {
    let start = salt.unwrap_or("").bytes().fold(1, |state, byte| mix(state, u64::from(byte)));
    tokens
        .iter()
        .scan(start, |state, token| {
            *state = mix(*state, u64::from(*token));
            Some(*state)
        })
        .collect()
}

fn next_token(state: u64, seed: u64) -> u32 {
    (mix(state, seed) % u64::from(VOCAB)) as u32
}

/// When a step is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// Before the next one is scheduled.
    Simple,
    /// After the next one, which does without its tokens.
    Late,
    /// After the next one, which computes its tokens before they are known; as `Simple` where there is no such step.
    Ahead,
}

pub struct ShadowEngine {
    scheduler: Scheduler,
    order: Loop,
    /// The step before, executed and not taken in yet.
    under_way: Option<(SchedulerOutput, Vec<Option<u32>>)>,
    last_scheduled: Vec<SeqId>,
    /// For each slot of the KV memory, the fingerprint of the prefix it was computed from, and of the group that did.
    slots: Vec<Option<u64>>,
    jobs: HashMap<String, Job>,
    outputs: HashMap<(String, u32), Vec<u32>>,
    /// Sequences that were given up, and requests that are over.
    given_up: HashSet<(String, u32)>,
    over: HashSet<String>,
    num_completed: usize,
}

impl ShadowEngine {
    pub fn new(config: SchedulerConfig, order: Loop) -> Self {
        let slots = vec![None; config.num_blocks * config.block_size];
        let scheduler = Scheduler::new(config).expect("the strategy makes valid settings");
        Self {
            scheduler,
            order,
            under_way: None,
            last_scheduled: Vec::new(),
            slots,
            jobs: HashMap::new(),
            outputs: HashMap::new(),
            given_up: HashSet::new(),
            over: HashSet::new(),
            num_completed: 0,
        }
    }

    /// Sequences that ended by themselves.
    pub fn num_completed(&self) -> usize {
        self.num_completed
    }

    pub fn add(&mut self, job: Job) {
        let request_id = format!("request-{}", self.jobs.len());
        self.scheduler.add_request(job.request(&request_id)).expect("the strategy makes valid requests");
        self.jobs.insert(request_id, job);
    }

    pub fn step(&mut self) {
        let output = self.schedule();
        let sampled = self.execute(&output);
        self.take_in(output, sampled);
    }

    pub fn step_aborting(&mut self, pick: usize) {
        let output = self.schedule();
        self.abort(pick);
        let sampled = self.execute(&output);
        self.take_in(output, sampled);
    }

    pub fn step_failing_one(&mut self, pick: usize) {
        let output = self.schedule();
        let mut sampled = self.execute(&output);
        let sampling: Vec<usize> = (0..sampled.len()).filter(|i| sampled[*i].is_some()).collect();
        if !sampling.is_empty() {
            sampled[sampling[pick % sampling.len()]] = None;
        }
        self.take_in(output, sampled);
    }

    pub fn fail_step(&mut self, abort: Option<usize>) {
        let output = self.schedule();
        if let Some(pick) = abort {
            self.abort(pick);
        }
        self.take_in_before();
        for update in self.scheduler.fail_step(&output) {
            self.give_up(&update);
        }
        self.scheduler.check_integrity();
    }

    /// Ends a sequence of the last step, if it goes on.
    pub fn finish_with_error(&mut self, pick: usize) {
        if self.last_scheduled.is_empty() {
            return;
        }
        let seq_id = self.last_scheduled[pick % self.last_scheduled.len()];
        if let Some(update) = self.scheduler.finish_with_error(seq_id) {
            self.give_up(&update);
        }
        self.scheduler.check_integrity();
    }

    pub fn abort(&mut self, pick: usize) {
        let live = self.live();
        if live.is_empty() {
            return;
        }
        let request_id = live[pick % live.len()].clone();
        for seq_id in self.scheduler.abort(&request_id) {
            let sequence = self.scheduler.sequence(seq_id).expect("readable until the next schedule");
            assert_eq!(sequence.status(), SequenceStatus::Finished(FinishReason::Abort));
            self.given_up.insert((request_id.clone(), sequence.index()));
        }
        assert!(self.scheduler.abort(&request_id).is_empty(), "an aborted request is over");
        self.over.insert(request_id);
        self.scheduler.check_integrity();
    }

    pub fn reset_prefix_cache(&mut self) {
        let is_idle = self.scheduler.stats().num_free_blocks == self.scheduler.stats().num_blocks;
        assert_eq!(self.scheduler.reset_prefix_cache(), is_idle);
        if is_idle {
            assert_eq!(self.scheduler.stats().num_cached_blocks, 0);
            self.slots.fill(None);
        }
    }

    pub fn finish_all(&mut self) {
        for _ in 0..100_000 {
            if !self.scheduler.has_unfinished() && self.under_way.is_none() {
                return self.check_end();
            }
            self.step();
        }
        panic!("the requests do not come to an end: {:?}", self.scheduler.stats());
    }

    fn check_end(&self) {
        let stats = self.scheduler.stats();
        assert_eq!((stats.num_running, stats.num_waiting), (0, 0));
        assert_eq!(stats.num_free_blocks, stats.num_blocks, "blocks leaked");
        assert!(stats.prefix_cache_hits <= stats.prefix_cache_queries, "{stats:?}");
        assert_eq!(self.over.len(), self.jobs.len(), "every request said that it is over");
    }

    fn live(&self) -> Vec<String> {
        let mut live: Vec<String> = self.jobs.keys().filter(|id| !self.over.contains(*id)).cloned().collect();
        live.sort();
        live
    }

    fn schedule(&mut self) -> SchedulerOutput {
        if self.order == Loop::Ahead && self.under_way.is_some() {
            match self.scheduler.schedule_ahead() {
                Some(output) => {
                    self.last_scheduled = output.sequences.iter().map(|scheduled| scheduled.seq_id).collect();
                    return output;
                }
                None => self.take_in_before(),
            }
        }
        let had_work = self.scheduler.has_unfinished();
        let output = self.scheduler.schedule();
        self.scheduler.check_integrity();
        self.last_scheduled = output.sequences.iter().map(|scheduled| scheduled.seq_id).collect();
        let config = self.scheduler.config();
        let num_tokens: usize = output.sequences.iter().map(|scheduled| scheduled.num_tokens).sum();
        assert_eq!(num_tokens, output.num_tokens);
        assert!(num_tokens <= config.max_num_batched_tokens);
        assert!(output.sequences.len() <= config.max_num_seqs);
        assert!(!had_work || !output.is_empty() || self.under_way.is_some(), "unfinished work, but an empty step");
        for preempted in &output.preempted {
            let sequence = self.scheduler.sequence(*preempted).expect("a preempted sequence is queued");
            assert_eq!(sequence.status(), SequenceStatus::Preempted, "no admission in a step that preempted");
            let is_scheduled = output.sequences.iter().any(|scheduled| scheduled.seq_id == *preempted);
            assert!(!is_scheduled, "a preempted sequence must not have been scheduled in the same step");
        }
        output
    }

    fn take_in_before(&mut self) {
        if let Some((output, sampled)) = self.under_way.take() {
            self.update(&output, &sampled);
        }
    }

    /// As the model does: all keys and values of the batch are written, then every row attends, then it samples.
    fn execute(&mut self, output: &SchedulerOutput) -> Vec<Option<u32>> {
        let mut written = HashSet::new();
        for scheduled in &output.sequences {
            let sequence = self.scheduler.sequence(scheduled.seq_id).expect("a scheduled sequence is readable");
            let states = self.states(scheduled, sequence);
            assert!(scheduled.num_tokens > 0);
            let mut new = Vec::new();
            for group in 0..self.scheduler.config().sliding_windows.len() {
                let chunk = states.iter().enumerate().skip(scheduled.num_computed_tokens).take(scheduled.num_tokens);
                new.extend(
                    chunk.map(|(position, state)| (self.slot(sequence, group, position), mix(*state, group as u64))),
                );
            }
            for (slot, state) in new {
                assert!(written.insert(slot), "two rows of a step write slot {slot}");
                self.slots[slot] = Some(state);
            }
        }
        output
            .sequences
            .iter()
            .map(|scheduled| {
                let sequence = self.scheduler.sequence(scheduled.seq_id).expect("a scheduled sequence is readable");
                let states = self.states(scheduled, sequence);
                let end = scheduled.num_computed_tokens + scheduled.num_tokens;
                self.read(scheduled, sequence, &states);
                assert_eq!(scheduled.samples, end == states.len());
                scheduled.samples.then(|| next_token(states[end - 1], sequence.seed()))
            })
            .collect()
    }

    /// In every group, what the rows of a chunk see.
    fn read(&self, scheduled: &ScheduledSequence, sequence: &Sequence, states: &[u64]) {
        let first = scheduled.num_computed_tokens;
        for (group, window) in self.scheduler.config().sliding_windows.iter().enumerate() {
            let first_seen = window.map_or(0, |window| (first + 1).saturating_sub(window));
            let rows_seen = states.iter().enumerate().take(first + scheduled.num_tokens).skip(first_seen);
            for (position, state) in rows_seen {
                let slot = self.slot(sequence, group, position);
                let expected = Some(mix(*state, group as u64));
                let id = scheduled.seq_id;
                assert_eq!(self.slots[slot], expected, "{id:?} reads position {position} of group {group} in {slot}");
            }
        }
    }

    /// Of the tokens that are known, and of the one that only the device knows.
    fn states(&self, scheduled: &ScheduledSequence, sequence: &Sequence) -> Vec<u64> {
        let mut tokens = sequence.token_ids().to_vec();
        if scheduled.is_ahead {
            assert_eq!((scheduled.num_computed_tokens, scheduled.num_tokens), (tokens.len(), 1));
            let (before, sampled) = self.under_way.as_ref().expect("it is ahead of a step");
            let row = before.sequences.iter().position(|before| before.seq_id == scheduled.seq_id);
            // A token that came to nothing: the device computes with whatever is there.
            tokens.push(row.and_then(|row| sampled[row]).unwrap_or(0));
        }
        prefix_states(self.jobs[sequence.request_id().as_ref()].salt, &tokens)
    }

    fn slot(&self, sequence: &Sequence, group: usize, position: usize) -> usize {
        let block_size = self.scheduler.config().block_size;
        let block = sequence.block_table().get(group, position / block_size);
        assert!(!block.is_null(), "position {position} of group {group} was given back, but a step needs it");
        block.index() * block_size + position % block_size
    }

    /// Updates with this step, or with the one before when the loop is overlapped.
    fn take_in(&mut self, output: SchedulerOutput, sampled: Vec<Option<u32>>) {
        let step = if self.order == Loop::Simple {
            Some((output, sampled))
        } else if output.is_empty() {
            self.under_way.take()
        } else {
            self.under_way.replace((output, sampled))
        };
        if let Some((output, sampled)) = step {
            self.update(&output, &sampled);
        }
    }

    fn update(&mut self, output: &SchedulerOutput, sampled: &[Option<u32>]) {
        for update in self.scheduler.update(output, sampled) {
            let key = (update.request_id.to_string(), update.index);
            assert!(!self.given_up.contains(&key), "{key:?} goes on after its end");
            let Some(token) = update.token_id else {
                assert_eq!(update.finish, Some(FinishReason::Error));
                self.give_up(&update);
                continue;
            };
            self.outputs.entry(key.clone()).or_default().push(token);
            let sequence = self.scheduler.sequence(update.seq_id).expect("readable until the next schedule");
            assert_eq!(sequence.output_token_ids(), self.outputs[&key]);
            if let Some(finish) = update.finish {
                let expected = self.jobs[&key.0].alone(key.1, self.scheduler.config().max_model_len);
                assert_eq!((&self.outputs[&key], finish), (&expected.0, expected.1), "{key:?}");
                self.num_completed += 1;
            }
            self.note_over(&update);
        }
        self.scheduler.check_integrity();
    }

    fn give_up(&mut self, update: &SequenceUpdate) {
        assert_eq!((update.token_id, update.finish), (None, Some(FinishReason::Error)));
        assert!(self.given_up.insert((update.request_id.to_string(), update.index)), "given up twice");
        self.note_over(update);
    }

    fn note_over(&mut self, update: &SequenceUpdate) {
        if update.request_finished {
            assert!(self.over.insert(update.request_id.to_string()), "a request is over twice");
        }
    }
}
