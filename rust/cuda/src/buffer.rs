//! Where results live, and what ops index with.

use std::any::Any;
use std::sync::Arc;

use rustllm_ops::Storage;

use crate::memory::DeviceMemory;

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
