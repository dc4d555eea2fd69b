//! Memory of the device.

use std::sync::Arc;

use cudarc::driver::sys::CUresult;
use cudarc::driver::{CudaStream, result};
use rustllm_ops::{Error, Result};

use crate::error::op_error;

/// Bytes of the device, freed when dropped, after the work that was submitted before.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    /// Of all work that uses it.
    stream: Arc<CudaStream>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// Memory with unspecified contents, for work on `stream`. The device must be bound to the thread.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize, what: &'static str) -> Result<Self> {
        // A size of zero has no address; operands without elements still need one.
        // SAFETY: nobody reads the memory before it is written: that is every op's contract.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::OutOfMemory { bytes, what },
            // Of work that failed, the driver tells at the next call, whatever that asks for.
            _ => op_error("reserve memory")(error),
        })?;
        Ok(Self { stream: Arc::clone(stream), address, bytes })
    }

    pub fn address(&self) -> u64 {
        self.address
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceMemory {
    fn drop(&mut self) {
        // The driver may wait for work by itself before it frees memory, but promises nothing. A context that is gone has taken
        // its memory along, so failures leave nothing to be done.
        let _ = self.stream.synchronize();
        // SAFETY: the memory is this value's own, and the work that used it is done.
        let _ = self.stream.context().bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}
