//! Where weights lie: side by side in a few large pieces of the device's memory.
//!
//! ```text
//!   slab   │ codes │ scales │ zero points │ codes │      free      │    parts begin at multiples of 256 bytes
//!   slab   │ codes                  │            free            │    a part goes to the first slab with room for it
//! ```
//!
//! Slabs are taken for weights that were planned, so that a checkpoint of thousands of experts asks the driver for memory a few
//! times; a weight that nobody planned has memory of its own. A slab is given back with the last of its parts.

use std::sync::{Arc, Weak};

use rustllm_ops::{Result, checked_size};

use crate::device::Device;
use crate::memory::DeviceMemory;
use crate::view::Address;

/// Parts begin at multiples of this, as what the driver gives does.
const ALIGNMENT: usize = 256;

/// Bytes of a slab at most, unless a part is larger: what a plan that was too large costs.
const MOST_SLAB_BYTES: usize = 1 << 30;

/// Bytes of a slab for what exceeds the plan: rows that are filled up, scales, tables that are not quantized.
const BEYOND_PLAN_BYTES: usize = 16 << 20;

/// Bytes of a weight, in a slab that lives as long as they do.
#[derive(Debug)]
pub(crate) struct WeightMemory {
    slab: Arc<DeviceMemory>,
    offset: usize,
}

impl WeightMemory {
    pub fn address(&self) -> Address {
        self.slab.address() + self.offset as u64
    }
}

/// Hands out the slabs' bytes from their beginning to their end.
#[derive(Debug, Default)]
pub(crate) struct WeightArena {
    /// Those with room.
    slabs: Vec<Slab>,
    /// Bytes that are to come, and that there are no slabs for.
    planned: usize,
    /// Whether anything was planned.
    has_plan: bool,
}

#[derive(Debug)]
struct Slab {
    memory: Weak<DeviceMemory>,
    used: usize,
}

impl WeightArena {
    /// Expects weights of `bytes` in all, or more.
    pub fn plan(&mut self, bytes: usize) {
        self.planned = self.planned.saturating_add(bytes);
        self.has_plan = true;
    }

    /// Memory for `sizes[0] * sizes[1] * ...` bytes. Its contents are unspecified.
    pub fn take(&mut self, device: &Device, sizes: &[usize]) -> Result<WeightMemory> {
        let bytes = checked_size(sizes, "weights")?;
        self.slabs.retain(|slab| slab.memory.strong_count() > 0);
        if let Some(part) = self.slabs.iter_mut().find_map(|slab| slab.take(bytes)) {
            return Ok(part);
        }
        let slab = Arc::new(device.alloc(&[bytes.max(self.next_slab_bytes())], "weights")?);
        self.planned = self.planned.saturating_sub(slab.bytes());
        if bytes < slab.bytes() {
            self.slabs.push(Slab { memory: Arc::downgrade(&slab), used: bytes });
        }
        Ok(WeightMemory { slab, offset: 0 })
    }

    /// Bytes of the next slab, where no part needs more.
    fn next_slab_bytes(&self) -> usize {
        if self.has_plan { self.planned.clamp(BEYOND_PLAN_BYTES, MOST_SLAB_BYTES) } else { 0 }
    }
}

impl Slab {
    /// The next `bytes`, if there are as many.
    fn take(&mut self, bytes: usize) -> Option<WeightMemory> {
        let slab = self.memory.upgrade()?;
        let offset = self.used.next_multiple_of(ALIGNMENT);
        let end = offset.checked_add(bytes).filter(|end| *end <= slab.bytes())?;
        self.used = end;
        Some(WeightMemory { slab, offset })
    }
}
