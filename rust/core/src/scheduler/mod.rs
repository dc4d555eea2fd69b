//! The scheduler: which tokens of which sequences the next step computes.
//!
//! There are no phases. Every sequence has `num_computed_tokens` that must catch up with its tokens, and each step it
//! gets `min(tokens not yet computed, budget left)`. Prefill, chunked prefill, decode, prefix hits and resumption after
//! a preemption are all that rule.
//!
//! ```text
//!                     ┌───────────────── preempt (blocks freed, tokens kept) ─────────────┐
//!                     ▼                                                                   │
//!   add_request ► waiting ──── schedule: max_num_seqs, blocks and budget allow ────► running
//!                     │                                                                   │
//!                     └─────► finished ◄───── eos, stop, length; abort; error ────────────┘
//!
//!   both queues in one order: (priority, arrival); FCFS is priority 0 for all
//! ```
//!
//! # When is a registered block filled?
//! Full blocks enter the hash index when they are *scheduled*, so that a second sequence in the same step already
//! shares them. That is sound because a layer writes the keys and values of the whole batch before it attends, and
//! because of one invariant: **what is registered in a step is executed in that step.**
//!
//! - Sequences are scheduled in queue order and the victim of a preemption is the last running one, at or after the
//!   sequence that needs a block. It was given nothing in this step yet. Admission comes after all preemption.
//! - A sequence that ends (abort, error) while a step with it is under way keeps its blocks until that step's
//!   `update`; its rows are executed with the others, and nobody else gets its blocks before.
//! - When execution fails, `fail_step` ends every sequence of the step, sharers included, and takes the step's blocks
//!   out of the index.

mod ahead;
mod config;
mod integrity;
mod output;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

pub use config::{AddRequestError, ConfigError, SchedulerConfig, SchedulingPolicy};
pub use output::{ScheduledSequence, SchedulerOutput, SchedulerStats, SequenceUpdate};

use crate::block_manager::BlockManager;
use crate::request::{FinishReason, Request, RequestState};
use crate::sequence::{SeqId, Sequence, SequenceStatus};
use crate::sequence_table::SequenceTable;

/// Place in both queues.
type QueueKey = (i32, SeqId);

/// The unfinished sequences of a request.
#[derive(Debug)]
struct RequestEntry {
    seq_ids: Vec<SeqId>,
    num_unfinished: usize,
}

/// See the module's text.
#[derive(Debug)]
pub struct Scheduler {
    config: SchedulerConfig,
    sequences: SequenceTable,
    blocks: BlockManager,
    /// Sequences with blocks, in queue order.
    running: Vec<SeqId>,
    /// Sequences without, in queue order.
    waiting: BTreeSet<QueueKey>,
    /// Sequences that ended and are still readable.
    finished: Vec<SeqId>,
    requests: HashMap<Arc<str>, RequestEntry>,
    num_preemptions: u64,
    prefix_cache_queries: u64,
    prefix_cache_hits: u64,
}

impl Scheduler {
    /// A scheduler with empty queues.
    ///
    /// # Errors
    /// The first setting out of its range.
    pub fn new(config: SchedulerConfig) -> Result<Self, ConfigError> {
        config.verify()?;
        let blocks =
            BlockManager::new(config.num_blocks as u32, config.kv_cache_groups(), config.enable_prefix_caching);
        Ok(Self {
            config,
            sequences: SequenceTable::default(),
            blocks,
            running: Vec::new(),
            waiting: BTreeSet::new(),
            finished: Vec::new(),
            requests: HashMap::new(),
            num_preemptions: 0,
            prefix_cache_queries: 0,
            prefix_cache_hits: 0,
        })
    }

    /// The settings.
    pub fn config(&self) -> &SchedulerConfig {
        &self.config
    }

    /// Queues the `n` sequences of a request.
    ///
    /// # Errors
    /// See [`AddRequestError`]; nothing changes then.
    pub fn add_request(&mut self, mut request: Request) -> Result<(), AddRequestError> {
        self.verify_request(&request)?;
        self.forget_finished();
        if self.config.policy == SchedulingPolicy::Fcfs {
            request.priority = 0;
        }
        let request = Arc::new(RequestState::new(request));
        let num_groups = self.blocks.groups().len();
        let seq_ids: Vec<SeqId> = (0..request.params.n)
            .map(|index| self.sequences.insert(|seq_id| Sequence::new(seq_id, Arc::clone(&request), index, num_groups)))
            .collect();
        self.waiting.extend(seq_ids.iter().map(|seq_id| (request.priority, *seq_id)));
        let num_unfinished = seq_ids.len();
        self.requests.insert(Arc::clone(&request.request_id), RequestEntry { seq_ids, num_unfinished });
        Ok(())
    }

    fn verify_request(&self, request: &Request) -> Result<(), AddRequestError> {
        let SchedulerConfig { max_model_len, num_blocks, block_size, .. } = self.config;
        request.params.verify()?;
        if self.requests.contains_key(request.request_id.as_str()) {
            return Err(AddRequestError::DuplicateRequestId { request_id: request.request_id.clone() });
        }
        let num_prompt_tokens = request.prompt_token_ids.len();
        if num_prompt_tokens == 0 {
            return Err(AddRequestError::EmptyPrompt);
        }
        // One token must be left to generate.
        let num_generated = usize::from(request.pooling.is_none());
        if num_prompt_tokens + num_generated > max_model_len {
            return Err(AddRequestError::PromptTooLong { num_prompt_tokens, max_model_len });
        }
        // The last token that is sampled is never computed.
        let max_output = request.params.max_tokens.map_or(usize::MAX, |max_tokens| max_tokens as usize);
        let num_tokens = match request.pooling {
            Some(_) => num_prompt_tokens,
            None => num_prompt_tokens.saturating_add(max_output).min(max_model_len) - 1,
        };
        let groups = self.blocks.groups();
        if groups.max_blocks(num_tokens) > num_blocks {
            let capacity = groups.longest_sequence(num_blocks, num_tokens);
            return Err(AddRequestError::TooLongForCache {
                num_tokens,
                num_prompt_tokens,
                capacity,
                num_blocks,
                block_size,
            });
        }
        let num_sequences = request.params.n as usize;
        if !self.sequences.has_room_for(num_sequences) {
            return Err(AddRequestError::QueueFull { num_sequences });
        }
        Ok(())
    }

    /// Ends the unfinished sequences of a request now and returns them; none when the id is unknown or over.
    pub fn abort(&mut self, request_id: &str) -> Vec<SeqId> {
        let Some(entry) = self.requests.get_mut(request_id) else { return Vec::new() };
        let mut seq_ids = std::mem::take(&mut entry.seq_ids);
        seq_ids.retain(|seq_id| self.finish(*seq_id, FinishReason::Abort).is_some());
        self.retain_running();
        self.check_integrity_in_debug();
        seq_ids
    }

    /// Ends one unfinished sequence of a request now, the others go on; `None` when there is no such sequence.
    pub fn abort_sequence(&mut self, request_id: &str, index: u32) -> Option<SeqId> {
        let seq_id = *self.requests.get(request_id)?.seq_ids.get(index as usize)?;
        self.finish(seq_id, FinishReason::Abort)?;
        self.retain_running();
        self.check_integrity_in_debug();
        Some(seq_id)
    }

    /// Ends one sequence with [`FinishReason::Error`]; the others go on. What it computed is not trusted: its blocks
    /// leave the prefix cache. `None` when it is unknown or over.
    pub fn finish_with_error(&mut self, seq_id: SeqId) -> Option<SequenceUpdate> {
        let update = self.fail_sequence(seq_id);
        self.retain_running();
        self.check_integrity_in_debug();
        update
    }

    /// The work of the next step; empty when there is nothing to do. Sequences that ended before are forgotten.
    pub fn schedule(&mut self) -> SchedulerOutput {
        self.forget_finished();
        let num_expected = self.running.len() + self.waiting.len().min(self.config.max_num_seqs - self.running.len());
        let mut output = SchedulerOutput { sequences: Vec::with_capacity(num_expected), ..SchedulerOutput::default() };
        self.schedule_running(&mut output);
        if output.preempted.is_empty() {
            self.schedule_waiting(&mut output);
        }
        self.check_integrity_in_debug();
        output
    }

    fn schedule_running(&mut self, output: &mut SchedulerOutput) {
        let mut next = 0;
        while next < self.running.len() && output.num_tokens < self.config.max_num_batched_tokens {
            let seq_id = self.running[next];
            self.renew_blocks(seq_id);
            let budget = self.config.max_num_batched_tokens - output.num_tokens;
            let num_tokens = self.sequences[seq_id].num_remaining_tokens().min(budget);
            if !self.make_room(seq_id, num_tokens, output) {
                return; // it was the last one and has preempted itself
            }
            self.schedule_sequence(seq_id, num_tokens, output);
            next += 1;
        }
    }

    /// While a sequence catches up with its tokens, others may have cached the blocks it comes to next; and as it goes
    /// on, windows leave blocks behind.
    fn renew_blocks(&mut self, seq_id: SeqId) {
        let sequence = &mut self.sequences[seq_id];
        if sequence.num_remaining_tokens() > 1 {
            let num_hits = self.blocks.extend_cached_prefix(sequence) as u64;
            if sequence.num_preemptions == 0 {
                self.prefix_cache_hits += num_hits;
            }
        }
        self.blocks.release_unseen(sequence);
    }

    /// Preempts from the end of the queue until the sequence has blocks for its tokens. False when it came to itself.
    fn make_room(&mut self, seq_id: SeqId, num_tokens: usize, output: &mut SchedulerOutput) -> bool {
        while !self.blocks.can_append(&self.sequences[seq_id], num_tokens) {
            let victim = self.running.pop().expect("the sequence that needs room is running");
            self.preempt(victim);
            output.preempted.push(victim);
            if victim == seq_id {
                return false;
            }
        }
        true
    }

    fn preempt(&mut self, seq_id: SeqId) {
        let sequence = &mut self.sequences[seq_id];
        self.blocks.free(sequence);
        sequence.status = SequenceStatus::Preempted;
        sequence.num_preemptions += 1;
        self.num_preemptions += 1;
        self.waiting.insert((sequence.priority(), seq_id));
    }

    fn schedule_waiting(&mut self, output: &mut SchedulerOutput) {
        while self.running.len() < self.config.max_num_seqs && output.num_tokens < self.config.max_num_batched_tokens {
            let Some((_, seq_id)) = self.waiting.first().copied() else { return };
            let budget = self.config.max_num_batched_tokens - output.num_tokens;
            if !self.config.enable_chunked_prefill && self.sequences[seq_id].num_tokens() > budget {
                return; // it comes whole, with the next step
            }
            if !self.admit(seq_id) {
                return;
            }
            self.waiting.pop_first();
            let num_tokens = self.sequences[seq_id].num_remaining_tokens().min(budget);
            self.schedule_sequence(seq_id, num_tokens, output);
            self.insert_running(seq_id);
        }
    }

    /// Starts a queued sequence with what the prefix cache has of it, if its tokens have room.
    fn admit(&mut self, seq_id: SeqId) -> bool {
        let sequence = &mut self.sequences[seq_id];
        if !self.blocks.admit(sequence) {
            return false;
        }
        if sequence.status == SequenceStatus::Waiting {
            sequence.num_cached_tokens = sequence.num_computed_tokens;
            if self.config.enable_prefix_caching && !sequence.skips_prefix_cache() {
                self.prefix_cache_queries += sequence.num_tokens() as u64;
                self.prefix_cache_hits += sequence.num_cached_tokens as u64;
            }
        }
        sequence.start();
        true
    }

    fn insert_running(&mut self, seq_id: SeqId) {
        let key = (self.sequences[seq_id].priority(), seq_id);
        let place = self.running.partition_point(|other| (self.sequences[*other].priority(), *other) < key);
        self.running.insert(place, seq_id);
    }

    fn schedule_sequence(&mut self, seq_id: SeqId, num_tokens: usize, output: &mut SchedulerOutput) {
        if num_tokens == 0 {
            return; // its last token is being sampled by a step under way
        }
        let sequence = &mut self.sequences[seq_id];
        let num_computed_tokens = sequence.num_computed_tokens;
        self.blocks.append(sequence, num_tokens, &mut output.registered);
        sequence.num_steps_in_flight += 1;
        let samples = sequence.num_remaining_tokens() == 0;
        let scheduled = ScheduledSequence { seq_id, num_computed_tokens, num_tokens, samples, is_ahead: false };
        output.sequences.push(scheduled);
        output.num_tokens += num_tokens;
    }

    /// Takes in an executed step: `sampled` has one entry for each of `output.sequences`, in order, and is `None`
    /// where `samples` is false. A `None` where a token was due ends that sequence with [`FinishReason::Error`]. Pooling
    /// sequences get no token: they end when their prompt is computed.
    /// Returns what the sequences got; those that only computed a part of their prompt are not in it.
    ///
    /// # Panics
    /// When `sampled` has another length than `output.sequences`, or the output was taken in before.
    pub fn update(&mut self, output: &SchedulerOutput, sampled: &[Option<u32>]) -> Vec<SequenceUpdate> {
        assert_eq!(sampled.len(), output.sequences.len(), "one entry of `sampled` for each scheduled sequence");
        let mut updates = Vec::with_capacity(sampled.len());
        for (scheduled, token_id) in output.sequences.iter().zip(sampled) {
            if self.land(scheduled.seq_id) && scheduled.samples {
                self.register_ahead(scheduled);
                updates.extend(match token_id {
                    _ if self.sequences[scheduled.seq_id].pooling().is_some() => self.finish_pooled(scheduled.seq_id),
                    Some(token_id) => Some(self.append_token(scheduled.seq_id, *token_id)),
                    None => self.fail_sequence(scheduled.seq_id),
                });
            }
        }
        self.retain_running();
        self.check_integrity_in_debug();
        updates
    }

    /// Takes in a step whose execution failed as a whole: every sequence of it ends with [`FinishReason::Error`], and
    /// nothing of what it should have computed stays in the prefix cache. If more steps are under way, fail them all.
    ///
    /// # Panics
    /// When the output was taken in before.
    pub fn fail_step(&mut self, output: &SchedulerOutput) -> Vec<SequenceUpdate> {
        self.blocks.unregister(&output.registered);
        let mut updates = Vec::with_capacity(output.sequences.len());
        for scheduled in &output.sequences {
            if self.land(scheduled.seq_id) {
                updates.extend(self.fail_sequence(scheduled.seq_id));
            }
        }
        self.retain_running();
        self.check_integrity_in_debug();
        updates
    }

    /// One step of the sequence is over. True when the sequence goes on; one that ended meanwhile gives its blocks
    /// back now.
    fn land(&mut self, seq_id: SeqId) -> bool {
        let sequence = self.sequences.get_mut(seq_id).filter(|sequence| sequence.num_steps_in_flight > 0);
        let sequence = sequence.expect("an output is taken in once");
        sequence.num_steps_in_flight -= 1;
        let goes_on = !sequence.is_finished();
        if !goes_on && sequence.num_steps_in_flight == 0 {
            self.blocks.free(sequence);
        }
        goes_on
    }

    fn append_token(&mut self, seq_id: SeqId, token_id: u32) -> SequenceUpdate {
        let sequence = &mut self.sequences[seq_id];
        sequence.append(token_id);
        let request_id = Arc::clone(sequence.request_id());
        let index = sequence.index();
        let finish = finish_reason(sequence, token_id, &self.config);
        let request_finished = finish.and_then(|reason| self.finish(seq_id, reason)).unwrap_or(false);
        SequenceUpdate { seq_id, request_id, index, token_id: Some(token_id), finish, request_finished }
    }

    fn finish_pooled(&mut self, seq_id: SeqId) -> Option<SequenceUpdate> {
        let sequence = &self.sequences[seq_id];
        let (request_id, index) = (Arc::clone(sequence.request_id()), sequence.index());
        let reason = FinishReason::Stop(None);
        let request_finished = self.finish(seq_id, reason)?;
        Some(SequenceUpdate { seq_id, request_id, index, token_id: None, finish: Some(reason), request_finished })
    }

    fn fail_sequence(&mut self, seq_id: SeqId) -> Option<SequenceUpdate> {
        let sequence = self.sequences.get(seq_id)?;
        let (request_id, index) = (Arc::clone(sequence.request_id()), sequence.index());
        if !sequence.is_finished() {
            self.blocks.unregister_sequence(sequence);
        }
        let request_finished = self.finish(seq_id, FinishReason::Error)?;
        let finish = Some(FinishReason::Error);
        Some(SequenceUpdate { seq_id, request_id, index, token_id: None, finish, request_finished })
    }

    /// Ends a sequence; its blocks are freed now, or when the step under way lands. `running` still names it until
    /// [`Self::retain_running`]. Returns whether its request is over, `None` when the sequence was over already.
    fn finish(&mut self, seq_id: SeqId, reason: FinishReason) -> Option<bool> {
        let sequence = self.sequences.get_mut(seq_id).filter(|sequence| !sequence.is_finished())?;
        if sequence.status != SequenceStatus::Running {
            self.waiting.remove(&(sequence.priority(), seq_id));
        }
        sequence.status = SequenceStatus::Finished(reason);
        if sequence.num_steps_in_flight == 0 {
            self.blocks.free(sequence);
        }
        self.finished.push(seq_id);
        let entry = self.requests.get_mut(sequence.request_id()).expect("an unfinished sequence has a request");
        entry.num_unfinished -= 1;
        let request_finished = entry.num_unfinished == 0;
        if request_finished {
            self.requests.remove(sequence.request_id());
        }
        Some(request_finished)
    }

    /// Drops the sequences that ended from the running queue.
    fn retain_running(&mut self) {
        if !self.finished.is_empty() {
            self.running.retain(|seq_id| self.sequences[*seq_id].status == SequenceStatus::Running);
        }
    }

    /// Forgets the sequences that ended, but for those of a step under way.
    fn forget_finished(&mut self) {
        let sequences = &mut self.sequences;
        self.finished.retain(|seq_id| {
            let keep = sequences[*seq_id].num_steps_in_flight > 0;
            if !keep {
                sequences.remove(*seq_id);
            }
            keep
        });
    }

    /// A sequence. One that ended stays readable until the next `schedule` or `add_request`, and at least until the
    /// last step that was scheduled with it is taken in.
    pub fn sequence(&self, seq_id: SeqId) -> Option<&Sequence> {
        self.sequences.get(seq_id)
    }

    /// True while any sequence waits or runs.
    pub fn has_unfinished(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Number of sequences that hold blocks.
    pub fn num_running(&self) -> usize {
        self.running.len()
    }

    /// Number of queued sequences, preempted ones included.
    pub fn num_waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Counters and present state.
    pub fn stats(&self) -> SchedulerStats {
        let pool = self.blocks.pool();
        SchedulerStats {
            num_running: self.running.len(),
            num_waiting: self.waiting.len(),
            num_blocks: pool.num_blocks(),
            num_free_blocks: pool.num_free(),
            num_cached_blocks: pool.num_cached(),
            num_preemptions: self.num_preemptions,
            prefix_cache_queries: self.prefix_cache_queries,
            prefix_cache_hits: self.prefix_cache_hits,
        }
    }

    /// Forgets all cached blocks. False, and nothing changes, while any sequence holds blocks.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.blocks.reset_prefix_cache()
    }
}

/// Why a sequence ends with the token it just got, if it does.
fn finish_reason(sequence: &Sequence, token_id: u32, config: &SchedulerConfig) -> Option<FinishReason> {
    let params = sequence.params();
    let num_output_tokens = sequence.num_output_tokens();
    if num_output_tokens >= params.min_tokens as usize {
        if !params.ignore_eos && config.eos_token_ids.contains(&token_id) {
            return Some(FinishReason::Stop(None));
        }
        if sequence.request().is_stop_token(token_id) {
            return Some(FinishReason::Stop(Some(token_id)));
        }
    }
    sequence.ends_by_length(0, config.max_model_len).then_some(FinishReason::Length)
}

#[cfg(test)]
mod tests;
