//! Where results live: buffers that are used again once nothing refers to them.

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::{Result, Storage};

use crate::device::Device;
use crate::memory::DeviceMemory;

/// Buffers not taken for this many allocations are given back to the device.
const KEEP_FOR: u64 = 4096;

/// Smallest capacity in bytes, so that tiny buffers are interchangeable.
const MIN_BYTES: usize = 4096;

/// Memory behind a tensor or a list of indices.
#[derive(Debug)]
pub(crate) struct Buffer {
    memory: Arc<DeviceMemory>,
    offset: usize,
    bytes: usize,
    backend: u64,
}

impl Buffer {
    pub fn new(memory: DeviceMemory, backend: u64) -> Self {
        let bytes = memory.bytes();
        Self { memory: Arc::new(memory), offset: 0, bytes, backend }
    }

    /// A part of memory that others have parts of.
    pub fn part(memory: &Arc<DeviceMemory>, offset: usize, bytes: usize, backend: u64) -> Self {
        debug_assert!(offset + bytes <= memory.bytes());
        Self { memory: Arc::clone(memory), offset, bytes, backend }
    }

    /// The same bytes, apart from who else refers to `buffer`.
    pub fn sharing(buffer: &Self) -> Self {
        Self::part(&buffer.memory, buffer.offset, buffer.bytes, buffer.backend)
    }

    pub fn address(&self) -> u64 {
        self.memory.address() + self.offset as u64
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The backend whose ops may touch it.
    pub fn backend(&self) -> u64 {
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
/// A buffer may be handed out while the device still works on what it held: all work is on one stream, in order. After the
/// first steps every shape a model needs has its buffers, and a step allocates nothing, as its capture in a graph requires.
#[derive(Debug)]
pub(crate) struct Arena {
    backend: u64,
    slots: Vec<Slot>,
    tick: u64,
    keeps_all: bool,
}

#[derive(Debug)]
struct Slot {
    buffer: Arc<Buffer>,
    last_taken: u64,
}

impl Arena {
    pub fn new(backend: u64) -> Self {
        Self { backend, slots: Vec::new(), tick: 0, keeps_all: false }
    }

    /// An arena that gives nothing back to the device: captured graphs go on using the memory that their tensors had.
    pub fn of_graphs(backend: u64) -> Self {
        Self { keeps_all: true, ..Self::new(backend) }
    }

    /// A buffer for `bytes` that nothing else refers to. Its contents are unspecified.
    pub fn take(&mut self, device: &Device, bytes: usize) -> Result<Arc<Buffer>> {
        self.tick += 1;
        let wanted = bytes.max(MIN_BYTES);
        // Best fit among the free, but not so large that a long prefill's buffers are spent on single tokens.
        let free = self
            .slots
            .iter_mut()
            .filter(|slot| (wanted..=wanted.saturating_mul(8)).contains(&slot.buffer.bytes()))
            .filter_map(|slot| Arc::get_mut(&mut slot.buffer).is_some().then_some(slot))
            .min_by_key(|slot| slot.buffer.bytes());
        if let Some(slot) = free {
            slot.last_taken = self.tick;
            return Ok(Arc::clone(&slot.buffer));
        }
        if !self.keeps_all {
            let oldest = self.tick.saturating_sub(KEEP_FOR);
            self.slots.retain(|slot| slot.last_taken >= oldest || Arc::strong_count(&slot.buffer) > 1);
        }
        // An eighth of an octave of slack: growing batches do not ask for a new buffer each time.
        let granule = (wanted.next_power_of_two() / 16).max(256);
        let memory = device.alloc(&[wanted.next_multiple_of(granule)], "activations")?;
        let buffer = Arc::new(Buffer::new(memory, self.backend));
        self.slots.push(Slot { buffer: Arc::clone(&buffer), last_taken: self.tick });
        Ok(buffer)
    }
}
