//! The sequences by identity: a table with reused slots, so that finding one costs an index and no hash.
//!
//! ```text
//!   SeqId:  [ serial number, 40 bits | slot, 24 bits ]
//! ```
//!
//! The serial number grows with every sequence: ids are never reused and compare in order of arrival.

use crate::sequence::{SeqId, Sequence};

const SLOT_BITS: u32 = 24;
const MAX_SLOTS: usize = 1 << SLOT_BITS;

#[derive(Debug, Default)]
pub(crate) struct SequenceTable {
    slots: Vec<Option<Sequence>>,
    free_slots: Vec<u32>,
    next_serial: u64,
}

fn slot(id: SeqId) -> usize {
    (id.0 & (MAX_SLOTS as u64 - 1)) as usize
}

impl SequenceTable {
    /// True when `count` more sequences have room.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        self.free_slots.len() + (MAX_SLOTS - self.slots.len()) >= count
    }

    /// Stores the sequence that `make` builds for its new id. Ask [`Self::has_room_for`] first.
    pub(crate) fn insert(&mut self, make: impl FnOnce(SeqId) -> Sequence) -> SeqId {
        let slot = self.free_slots.pop().unwrap_or_else(|| {
            self.slots.push(None);
            (self.slots.len() - 1) as u32
        });
        let id = SeqId(self.next_serial << SLOT_BITS | u64::from(slot));
        self.next_serial += 1;
        self.slots[slot as usize] = Some(make(id));
        id
    }

    pub(crate) fn remove(&mut self, id: SeqId) {
        if self.get(id).is_some() {
            self.slots[slot(id)] = None;
            self.free_slots.push(slot(id) as u32);
        }
    }

    pub(crate) fn get(&self, id: SeqId) -> Option<&Sequence> {
        self.slots.get(slot(id))?.as_ref().filter(|sequence| sequence.seq_id() == id)
    }

    pub(crate) fn get_mut(&mut self, id: SeqId) -> Option<&mut Sequence> {
        self.slots.get_mut(slot(id))?.as_mut().filter(|sequence| sequence.seq_id() == id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Sequence> {
        self.slots.iter().flatten()
    }
}

/// For ids that the scheduler's own queues hold: those sequences exist.
impl std::ops::Index<SeqId> for SequenceTable {
    type Output = Sequence;

    fn index(&self, id: SeqId) -> &Sequence {
        self.get(id).expect("a queued sequence is in the table")
    }
}

impl std::ops::IndexMut<SeqId> for SequenceTable {
    fn index_mut(&mut self, id: SeqId) -> &mut Sequence {
        self.get_mut(id).expect("a queued sequence is in the table")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::request::{Request, RequestState};
    use crate::sampling_params::SamplingParams;

    fn insert(table: &mut SequenceTable) -> SeqId {
        let request = Request {
            request_id: String::new(),
            prompt_token_ids: Arc::from([1]),
            params: Arc::new(SamplingParams::default()),
            priority: 0,
            cache_salt: None,
            seed: 0,
            pooling: None,
        };
        table.insert(|id| Sequence::new(id, Arc::new(RequestState::new(request)), 0, 1))
    }

    #[test]
    fn a_reused_slot_does_not_answer_to_its_old_id() {
        let mut table = SequenceTable::default();
        let (first, second) = (insert(&mut table), insert(&mut table));
        table.remove(first);
        let third = insert(&mut table);
        assert_eq!(slot(third), slot(first));
        assert!(table.get(first).is_none() && table.get_mut(first).is_none());
        table.remove(first);
        assert_eq!(table.get(third).map(Sequence::seq_id), Some(third), "removing an old id changes nothing");
        assert!(first < second && second < third, "ids compare in order of arrival");
        assert_eq!(table.iter().count(), 2);
    }

    #[test]
    fn unknown_ids_are_answered_with_none() {
        assert!(SequenceTable::default().get(SeqId(u64::MAX)).is_none());
    }
}
