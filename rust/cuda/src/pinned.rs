//! Page-locked memory of the host: the device copies from it and to it by itself, while the host goes on.

use std::fmt;

use cudarc::driver::sys::CUstream;
use cudarc::driver::{CudaEvent, DeviceRepr, DriverError, PinnedHostSlice, ValidAsZeroBits, result};
use rustllm_ops::Result;

use crate::device::Device;
use crate::error::op_error;

/// `len` elements of page-locked memory, and what the device is to do with them.
pub(crate) struct Pinned<T> {
    memory: PinnedHostSlice<T>,
    /// That the device is done with the memory.
    done: CudaEvent,
}

impl<T> fmt::Debug for Pinned<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pinned").field("len", &self.memory.len()).finish_non_exhaustive()
    }
}

impl<T: DeviceRepr + ValidAsZeroBits> Pinned<T> {
    /// Memory with unspecified contents.
    pub fn new(device: &Device, len: usize) -> Result<Self> {
        let context = device.bind()?;
        // SAFETY: elements are plain numbers; those that are sent were written, those that are read were received.
        let memory = unsafe { context.alloc_pinned_with_flags::<T>(len.max(1), 0) };
        let with_event = memory.and_then(|memory| Ok(Self { memory, done: context.new_event(None)? }));
        with_event.map_err(op_error("reserve page-locked memory"))
    }

    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// The elements, once the device is done with them.
    pub fn elements(&mut self) -> Result<&mut [T]> {
        let waited = self.done.synchronize().and_then(|()| self.memory.as_mut_slice());
        waited.map_err(op_error("finish a copy"))
    }

    /// Begins to copy the first `len` elements to the device's memory at `to`, in the stream's order.
    ///
    /// # Safety
    /// There is room for them, for as long as the stream has not come past the copy.
    pub unsafe fn send(&mut self, device: &Device, len: usize, to: u64) -> Result<()> {
        self.copy(device, |memory, stream| {
            // SAFETY: the memory is not written before the event has come; the caller vouches for the room.
            unsafe { result::memcpy_htod_async(to, &memory[..len], stream) }
        })
    }

    /// Begins to copy what is at `from` once the work before is done to the first `len` elements.
    ///
    /// # Safety
    /// There are as many at `from`, for as long as the stream has not come past the copy.
    pub unsafe fn receive(&mut self, device: &Device, len: usize, from: u64) -> Result<()> {
        self.copy(device, |memory, stream| {
            // SAFETY: the memory is not looked at before the event has come; the caller vouches for what is there.
            unsafe { result::memcpy_dtoh_async(&mut memory[..len], from, stream) }
        })
    }

    fn copy(
        &mut self,
        device: &Device,
        begin: impl FnOnce(&mut [T], CUstream) -> std::result::Result<(), DriverError>,
    ) -> Result<()> {
        device.bind()?;
        let begun = self.memory.as_mut_slice().and_then(|memory| begin(memory, device.stream().cu_stream()));
        begun.and_then(|()| self.done.record(device.stream())).map_err(op_error("begin a copy"))
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        // A device that has failed copies no more, so failures leave nothing to be done.
        let _ = self.done.synchronize();
    }
}
