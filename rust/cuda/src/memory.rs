//! Memory of the device.

use std::sync::Arc;

use cudarc::driver::{CudaContext, result};
use rustllm_ops::{Error, Result};

/// Bytes of the device, freed when dropped, after the work that was submitted before.
#[derive(Debug)]
pub(crate) struct DeviceMemory {
    context: Arc<CudaContext>,
    address: u64,
    bytes: usize,
}

impl DeviceMemory {
    /// Memory with unspecified contents. The device must be bound to the thread.
    pub fn new(context: &Arc<CudaContext>, bytes: usize, what: &'static str) -> Result<Self> {
        // A size of zero has no address; operands without elements still need one.
        // SAFETY: nobody reads the memory before it is written: that is every op's contract.
        let address = unsafe { result::malloc_sync(bytes.max(1)) };
        let address = address.map_err(|_| Error::OutOfMemory { bytes, what })?;
        Ok(Self { context: Arc::clone(context), address, bytes })
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
        // A context that is gone has taken its memory along, so failures leave nothing to be done.
        // SAFETY: the memory is this value's own. The driver frees it once the work that uses it is done.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::free_sync(self.address) });
    }
}
