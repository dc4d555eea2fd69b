use std::sync::Arc;

use crate::{Error, Result};

/// Buffers not taken for this many allocations are given back.
const KEEP_FOR: u64 = 4096;

/// Smallest size in bytes, so that tiny buffers are interchangeable.
const MIN_BYTES: usize = 4096;

/// The step arena of a backend: hands out buffers and takes back, by looking at reference counts, those whose tensors are
/// dropped.
///
/// After the first steps every shape a model needs has its buffers, and a step allocates nothing, as its capture in a graph
/// requires. A buffer may be handed out while the device still works on what it held, where all work is done in order.
#[derive(Debug)]
pub struct Arena<B> {
    slots: Vec<Slot<B>>,
    tick: u64,
    keeps_all: bool,
}

#[derive(Debug)]
struct Slot<B> {
    buffer: Arc<B>,
    bytes: usize,
    last_taken: u64,
}

impl<B> Default for Arena<B> {
    fn default() -> Self {
        Self { slots: Vec::new(), tick: 0, keeps_all: false }
    }
}

impl<B> Arena<B> {
    /// An arena that gives nothing back: captured graphs go on using the memory that their tensors had.
    pub fn of_graphs() -> Self {
        Self { keeps_all: true, ..Self::default() }
    }

    /// A buffer of at least `bytes` that nothing else refers to, made by `allocate`, which is given its size, where none is
    /// free. Its contents are unspecified.
    ///
    /// # Errors
    /// What `allocate` fails with.
    pub fn take(&mut self, bytes: usize, allocate: impl FnOnce(usize) -> Result<B>) -> Result<Arc<B>> {
        self.tick += 1;
        let wanted = bytes.max(MIN_BYTES);
        // Best fit among the free, but not so large that a long prefill's buffers are spent on single tokens.
        let free = self
            .slots
            .iter_mut()
            .filter(|slot| (wanted..=wanted.saturating_mul(8)).contains(&slot.bytes))
            .filter_map(|slot| Arc::get_mut(&mut slot.buffer).is_some().then_some(slot))
            .min_by_key(|slot| slot.bytes);
        if let Some(slot) = free {
            slot.last_taken = self.tick;
            return Ok(Arc::clone(&slot.buffer));
        }
        if !self.keeps_all {
            let oldest = self.tick.saturating_sub(KEEP_FOR);
            self.slots.retain(|slot| slot.last_taken >= oldest || Arc::strong_count(&slot.buffer) > 1);
        }
        // An eighth of an octave of slack: growing batches do not ask for a new buffer each time.
        let granule = checked_size(&[wanted], "activations")?.next_power_of_two() / 16;
        let bytes = wanted.next_multiple_of(granule);
        let buffer = Arc::new(allocate(bytes)?);
        self.slots.push(Slot { buffer: Arc::clone(&buffer), bytes, last_taken: self.tick });
        Ok(buffer)
    }

    /// Gives back what nothing refers to.
    pub fn give_back(&mut self) {
        self.slots.retain(|slot| Arc::strong_count(&slot.buffer) > 1);
    }
}

/// `sizes[0] * sizes[1] * ...` bytes for `what`.
///
/// # Errors
/// [`Error::OutOfMemory`] where so many cannot be addressed.
pub fn checked_size(sizes: &[usize], what: &'static str) -> Result<usize> {
    let product = sizes.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
    product.filter(|bytes| isize::try_from(*bytes).is_ok()).ok_or(Error::OutOfMemory { bytes: usize::MAX, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A buffer is its number.
    fn take(arena: &mut Arena<usize>, bytes: usize) -> Arc<usize> {
        let number = arena.slots.len();
        arena.take(bytes, |_| Ok(number)).unwrap()
    }

    #[test]
    fn takes_back_what_is_dropped_and_only_that() {
        let mut arena = Arena::default();
        let (first, second) = (take(&mut arena, 20_000), take(&mut arena, 20_000));
        assert_eq!((*first, *second), (0, 1));
        drop(first);
        assert_eq!(*take(&mut arena, 19_600), 0);
        assert_eq!(arena.slots.len(), 2);
    }

    #[test]
    fn a_steady_state_allocates_nothing() {
        let mut arena = Arena::default();
        let step = |arena: &mut Arena<usize>| {
            let sizes = [3584, 38_912, 607_744];
            let _taken = sizes.map(|bytes| take(arena, bytes));
        };
        step(&mut arena);
        for _ in 0..100 {
            step(&mut arena);
        }
        assert_eq!(arena.slots.len(), 3);
    }

    #[test]
    fn gives_back_what_is_free_when_asked() {
        let mut arena = Arena::default();
        let (held, dropped) = (take(&mut arena, 20_000), take(&mut arena, 5_000));
        drop(dropped);
        arena.give_back();
        assert_eq!(arena.slots.len(), 1);
        assert_eq!((*held, *take(&mut arena, 5_000)), (0, 1));
    }

    #[test]
    fn gives_long_unused_buffers_back() {
        for (mut arena, left) in [(Arena::default(), 1), (Arena::of_graphs(), 2)] {
            drop(take(&mut arena, 1 << 20));
            for _ in 0..=KEEP_FOR {
                drop(take(&mut arena, 400));
            }
            let _ = take(&mut arena, 1 << 25);
            assert_eq!(arena.slots.iter().filter(|slot| slot.bytes < 1 << 25).count(), left);
        }
    }

    #[test]
    fn refuses_what_cannot_be_addressed() {
        assert!(checked_size(&[usize::MAX, 2], "a test").is_err());
        assert!(Arena::default().take(usize::MAX, |_| Ok(0)).is_err());
    }
}
