//! Recounting the books.

use std::collections::{HashMap, HashSet};

use super::Scheduler;
use crate::block_pool::BlockId;
use crate::sequence::{Sequence, SequenceStatus};

impl Scheduler {
    /// Recounts every block from every block table, and every sequence from the queues.
    ///
    /// Debug builds do so after every change. The time grows with the number of blocks.
    ///
    /// # Panics
    /// When anything does not add up, naming it.
    pub fn check_integrity(&self) {
        let mut ref_counts = vec![0; self.config.num_blocks];
        for sequence in self.sequences.iter() {
            sequence.block_table().held().for_each(|id| ref_counts[id.index()] += 1);
        }
        self.blocks.pool().check_integrity(&ref_counts);
        self.sequences.iter().for_each(|sequence| self.check_sequence(sequence));
        self.check_queues();
        self.check_requests();
    }

    pub(super) fn check_integrity_in_debug(&self) {
        if cfg!(debug_assertions) {
            self.check_integrity();
        }
    }

    fn check_sequence(&self, sequence: &Sequence) {
        let id = sequence.seq_id();
        let (table, block_size) = (sequence.block_table(), self.config.block_size);
        let num_computed = sequence.num_computed_tokens();
        // A step may compute a token that is not known yet.
        let num_known = sequence.num_tokens() + usize::from(sequence.num_steps_in_flight > 0);
        assert!(num_computed <= num_known, "{id:?}: more computed tokens than tokens");
        assert_eq!(table.num_rows(), num_computed.div_ceil(block_size), "{id:?}: blocks against computed tokens");
        if sequence.status() != SequenceStatus::Running && sequence.num_steps_in_flight == 0 {
            assert!(table.is_empty(), "{id:?}: holds blocks without running");
        }
        for (group, window) in self.config.sliding_windows.iter().enumerate() {
            let first_seen = self.blocks.groups().first_seen_row(*window, num_computed);
            let held = table.group(group).enumerate().filter(|(_, block)| !block.is_null());
            self.blocks.groups().check_held(group, held.clone().count());
            assert_eq!(
                held.clone().filter(|(row, _)| *row >= first_seen).count(),
                table.num_rows() - first_seen,
                "{id:?}: group {group} gave back what is still seen"
            );
            held.for_each(|(row, block)| self.check_block(sequence, group, row, block));
        }
    }

    fn check_block(&self, sequence: &Sequence, group: usize, row: usize, block: BlockId) {
        let (id, pool) = (sequence.seq_id(), self.blocks.pool());
        if row >= sequence.num_computed_tokens() / self.config.block_size {
            assert_eq!((pool.ref_count(block), pool.hash(block)), (1, None), "{id:?}: a partial block is shared");
        } else if let (Some(held), Some(known)) = (pool.hash(block), sequence.known_block_hash(row)) {
            assert_eq!(held, known.of_group(group), "{id:?}: row {row} of group {group} holds another prefix");
        }
    }

    fn check_queues(&self) {
        assert!(self.running.len() <= self.config.max_num_seqs, "more running sequences than max_num_seqs");
        let keys: Vec<_> = self.running.iter().map(|id| (self.sequences[*id].priority(), *id)).collect();
        assert!(keys.is_sorted(), "the running queue is out of order");
        let running: HashSet<_> = self.running.iter().copied().collect();
        for sequence in self.sequences.iter() {
            let id = sequence.seq_id();
            let waits = self.waiting.contains(&(sequence.priority(), id));
            let expected = match sequence.status() {
                SequenceStatus::Running => (true, false, false),
                SequenceStatus::Waiting | SequenceStatus::Preempted => (false, true, false),
                SequenceStatus::Finished(_) => (false, false, true),
            };
            let places = (running.contains(&id), waits, self.finished.contains(&id));
            assert_eq!(places, expected, "{id:?}: {:?}, but (running, waiting, finished)", sequence.status());
        }
        let num_queued = self.running.len() + self.waiting.len() + self.finished.len();
        assert_eq!(num_queued, self.sequences.iter().count(), "a queue names a sequence twice or an unknown one");
    }

    fn check_requests(&self) {
        let mut counts: HashMap<&str, usize> = HashMap::new();
        for sequence in self.sequences.iter().filter(|sequence| !sequence.is_finished()) {
            *counts.entry(sequence.request_id()).or_default() += 1;
        }
        assert_eq!(counts.len(), self.requests.len(), "requests against the sequences that are not over");
        for (request_id, entry) in &self.requests {
            let count = counts.get(request_id.as_ref()).copied();
            assert_eq!(count, Some(entry.num_unfinished), "request {request_id:?}: unfinished sequences");
        }
    }
}
