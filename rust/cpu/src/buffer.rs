//! Where results live.

use std::any::Any;

use rustllm_ops::{Result, Storage, checked_size};

use crate::memory::AlignedBytes;

/// Float32 memory behind a tensor.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: AlignedBytes,
    backend: u64,
}

impl Buffer {
    /// `bytes` of the arena.
    pub(crate) fn of_step(bytes: usize, backend: u64) -> Result<Self> {
        Ok(Self { bytes: AlignedBytes::huge(bytes, "activations")?, backend })
    }

    /// Memory for `len` elements outside the arena, for tensors that outlive steps.
    pub(crate) fn permanent(len: usize, backend: u64) -> Result<Self> {
        let bytes = checked_size(&[len, size_of::<f32>()], "a tensor")?;
        Ok(Self { bytes: AlignedBytes::zeroed(bytes, "a tensor")?, backend })
    }

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
