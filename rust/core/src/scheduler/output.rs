//! What goes out of the scheduler: the work of a step, and what became of it.

use std::sync::Arc;

use crate::block_pool::BlockId;
use crate::request::FinishReason;
use crate::sequence::SeqId;

/// One step's work, in the order of the flat batch.
///
/// Execute it whole and hand it to [`Scheduler::update`](crate::Scheduler::update), or hand it to
/// [`Scheduler::fail_step`](crate::Scheduler::fail_step); each output once, in the order they were made.
#[derive(Clone, Debug, Default)]
pub struct SchedulerOutput {
    /// The sequences that compute tokens.
    pub sequences: Vec<ScheduledSequence>,
    /// Sequences that lost their blocks and went back to the queue.
    pub preempted: Vec<SeqId>,
    /// Tokens to compute, over all sequences.
    pub num_tokens: usize,
    /// Blocks that the index promises since this step and that execution will fill.
    pub(crate) registered: Vec<BlockId>,
}

impl SchedulerOutput {
    /// True when there is nothing to execute.
    pub fn is_empty(&self) -> bool {
        self.sequences.is_empty()
    }
}

/// The tokens that one sequence computes in a step: `num_computed_tokens .. num_computed_tokens + num_tokens` of
/// [`Sequence::token_ids`](crate::Sequence::token_ids).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledSequence {
    /// The sequence.
    pub seq_id: SeqId,
    /// Position of the first token to compute; everything before it is in the sequence's blocks.
    pub num_computed_tokens: usize,
    /// Number of tokens to compute, at least 1.
    pub num_tokens: usize,
    /// True when the last of them is the sequence's last token, so that its logits give the next one.
    pub samples: bool,
    /// True when the one token to compute is what the step before samples: it may be known to the device alone as yet.
    pub is_ahead: bool,
}

/// A token that a sequence got, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceUpdate {
    /// The sequence.
    pub seq_id: SeqId,
    /// Its request.
    pub request_id: Arc<str>,
    /// Its place among the request's sequences.
    pub index: u32,
    /// The new token; `None` when the sequence ended without one.
    pub token_id: Option<u32>,
    /// Why the sequence ended, if it did.
    pub finish: Option<FinishReason>,
    /// True when this was the last unfinished sequence of the request.
    pub request_finished: bool,
}

/// Counters since the start, and the present state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerStats {
    /// Sequences that hold blocks.
    pub num_running: usize,
    /// Sequences in the queue, preempted ones included.
    pub num_waiting: usize,
    /// Blocks of the cache.
    pub num_blocks: usize,
    /// Blocks that no sequence holds.
    pub num_free_blocks: usize,
    /// Blocks that can be found by their content.
    pub num_cached_blocks: usize,
    /// Times a sequence lost its blocks.
    pub num_preemptions: u64,
    /// Tokens looked up in the prefix cache. Recomputation after a preemption does not count.
    pub prefix_cache_queries: u64,
    /// Tokens of those that were found.
    pub prefix_cache_hits: u64,
}
