//! The step after the one under way, decided before its tokens are known.
//!
//! ```text
//!   token_ids      [ prompt ... | output ... ] ?            the token that step N samples
//!   computed       [ step N - 1 ............ ][ N+1 ]       step N + 1 computes it, wherever the device keeps it
//!                                           ^ step N
//! ```
//!
//! Only steps in which every sequence decodes one token are decided so: those are the short ones, where a device would wait for
//! its host. A sequence that turns out to have ended with step N has a row in step N + 1 all the same; nobody takes it in.
//!
//! The block that such a token fills cannot be registered when it is scheduled, as its hash is not known: it is when the step
//! lands.

use super::{ScheduledSequence, Scheduler, SchedulerOutput};
use crate::sequence::{SeqId, Sequence};

impl Scheduler {
    /// The step after the one under way, of those of its sequences that its tokens cannot end. `None`, and nothing changes,
    /// where another step may be due: where there is a sequence to admit, one with more to compute, or one that would have to
    /// be preempted. Take in the step under way then, and ask [`schedule`](Self::schedule).
    ///
    /// Steps are taken in in the order they were decided; an abort concerns all that the sequence is in.
    pub fn schedule_ahead(&mut self) -> Option<SchedulerOutput> {
        let goes_on = |seq_id: &SeqId| !self.sequences[*seq_id].ends_by_length(1, self.config.max_model_len);
        let decoding: Vec<SeqId> = self.running.iter().copied().filter(goes_on).collect();
        let has_place = decoding.len() < self.config.max_num_seqs;
        if decoding.is_empty()
            || (has_place && !self.waiting.is_empty())
            || !self.running.iter().all(|seq_id| awaits_token(&self.sequences[*seq_id]))
            || !self.blocks.can_append_to_all(decoding.iter().map(|seq_id| &self.sequences[*seq_id]))
        {
            return None;
        }
        let mut output = SchedulerOutput { num_tokens: decoding.len(), ..SchedulerOutput::default() };
        for seq_id in decoding {
            let sequence = &mut self.sequences[seq_id];
            let num_computed_tokens = sequence.num_computed_tokens;
            self.blocks.release_unseen(sequence);
            self.blocks.append_unknown(sequence);
            sequence.num_steps_in_flight += 1;
            let scheduled =
                ScheduledSequence { seq_id, num_computed_tokens, num_tokens: 1, samples: true, is_ahead: true };
            output.sequences.push(scheduled);
        }
        self.check_integrity_in_debug();
        Some(output)
    }

    /// A step that was decided ahead is over: the block it filled is found from now on.
    pub(super) fn register_ahead(&mut self, scheduled: &ScheduledSequence) {
        if scheduled.is_ahead {
            self.blocks.register_row_before(&mut self.sequences[scheduled.seq_id], scheduled.num_computed_tokens + 1);
        }
    }
}

/// Whether the sequence's next token is being sampled by the one step that it is in.
fn awaits_token(sequence: &Sequence) -> bool {
    sequence.num_steps_in_flight == 1 && sequence.num_remaining_tokens() == 0 && sequence.pooling().is_none()
}
