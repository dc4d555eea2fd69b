//! Where results live: buffers that are used again once nothing refers to them.

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::{Result, Storage};

use crate::memory::{AlignedBytes, checked_size};

/// Buffers not taken for this many allocations are given back to the system.
const KEEP_FOR: u64 = 4096;

/// Smallest capacity in elements, so that tiny buffers are interchangeable.
const MIN_CAPACITY: usize = 1024;

/// Float32 memory behind a tensor.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: AlignedBytes,
    backend: u64,
}

impl Buffer {
    /// The first element; valid for reads and writes of the whole capacity.
    pub(crate) fn as_ptr(&self) -> *mut f32 {
        self.bytes.as_ptr().cast()
    }

    /// Elements it can hold.
    pub(crate) fn capacity(&self) -> usize {
        self.bytes.len() / size_of::<f32>()
    }

    /// The backend whose ops may touch it.
    pub(crate) fn backend(&self) -> u64 {
        self.backend
    }
}

impl Storage for Buffer {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The step arena: hands out buffers and takes back, by looking at reference counts, those whose tensors are dropped.
///
/// After the first steps every shape a model needs has its buffers, and a step allocates nothing.
#[derive(Debug)]
pub(crate) struct Arena {
    backend: u64,
    slots: Vec<Slot>,
    tick: u64,
}

#[derive(Debug)]
struct Slot {
    buffer: Arc<Buffer>,
    last_taken: u64,
}

impl Arena {
    pub(crate) fn new(backend: u64) -> Self {
        Self { backend, slots: Vec::new(), tick: 0 }
    }

    /// A buffer for `len` elements that nothing else refers to. Its contents are unspecified.
    pub(crate) fn take(&mut self, len: usize) -> Result<Arc<Buffer>> {
        self.tick += 1;
        let capacity = checked_size(&[len.max(MIN_CAPACITY)], "activations")?.next_power_of_two();
        // Best fit among the free, but not so large that a long prefill's buffers are spent on single tokens.
        let free = self
            .slots
            .iter_mut()
            .filter(|slot| (len..=4 * capacity).contains(&slot.buffer.capacity()))
            .filter_map(|slot| Arc::get_mut(&mut slot.buffer).is_some().then_some(slot))
            .min_by_key(|slot| slot.buffer.capacity());
        if let Some(slot) = free {
            slot.last_taken = self.tick;
            return Ok(Arc::clone(&slot.buffer));
        }
        self.drop_unused();
        // An eighth of an octave of slack: growing batches do not ask for a new buffer each time.
        let granule = (capacity / 16).max(16);
        let bytes = checked_size(&[len.max(MIN_CAPACITY).next_multiple_of(granule), size_of::<f32>()], "activations")?;
        let buffer = Arc::new(Buffer { bytes: AlignedBytes::huge(bytes, "activations")?, backend: self.backend });
        self.slots.push(Slot { buffer: Arc::clone(&buffer), last_taken: self.tick });
        Ok(buffer)
    }

    /// A buffer outside the arena, for tensors that outlive steps.
    pub(crate) fn permanent(&self, len: usize) -> Result<Arc<Buffer>> {
        let bytes = checked_size(&[len, size_of::<f32>()], "a tensor")?;
        Ok(Arc::new(Buffer { bytes: AlignedBytes::zeroed(bytes, "a tensor")?, backend: self.backend }))
    }

    fn drop_unused(&mut self) {
        let oldest = self.tick.saturating_sub(KEEP_FOR);
        self.slots.retain(|slot| slot.last_taken >= oldest || Arc::strong_count(&slot.buffer) > 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_back_what_is_dropped_and_only_that() {
        let mut arena = Arena::new(0);
        let first = arena.take(5000).unwrap();
        let second = arena.take(5000).unwrap();
        assert_ne!(first.as_ptr(), second.as_ptr());
        let address = first.as_ptr();
        drop(first);
        assert_eq!(arena.take(4900).unwrap().as_ptr(), address);
        assert_eq!(arena.slots.len(), 2);
    }

    #[test]
    fn a_steady_state_allocates_nothing() {
        let mut arena = Arena::new(0);
        let step = |arena: &mut Arena| {
            let hidden = arena.take(896).unwrap();
            let wide = arena.take(9728).unwrap();
            let logits = arena.take(151_936).unwrap();
            drop((hidden, wide, logits));
        };
        step(&mut arena);
        let buffers = arena.slots.len();
        for _ in 0..100 {
            step(&mut arena);
        }
        assert_eq!(arena.slots.len(), buffers);
    }

    #[test]
    fn gives_long_unused_buffers_back() {
        let mut arena = Arena::new(0);
        drop(arena.take(1 << 20).unwrap());
        for _ in 0..=KEEP_FOR {
            drop(arena.take(100).unwrap());
        }
        drop(arena.take(1 << 21).unwrap());
        assert!(arena.slots.iter().all(|slot| slot.buffer.capacity() != 1 << 20));
    }
}
