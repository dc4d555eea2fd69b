//! From the host's memory, usually a mapped file's, to the device at the speed of the bus.
//!
//! ```text
//!   mapped file  ──several threads──►  page-locked A  ──the device──►  weights
//!                                      page-locked B      copies A while B is filled
//! ```
//!
//! The device reads page-locked memory by itself; the driver would copy other memory first, on one thread.

use std::fmt;
use std::num::NonZero;
use std::thread;

use cudarc::driver::{CudaEvent, PinnedHostSlice, result};
use rustllm_ops::Result;

use crate::device::Device;
use crate::error::op_error;

/// Bytes of each of the two buffers.
const BUFFER_BYTES: usize = 32 << 20;

/// Threads that fill a buffer at most: together they are faster than the bus.
const MAX_THREADS: usize = 8;

/// Bytes below which a thread is not worth starting.
const MIN_BYTES_PER_THREAD: usize = 1 << 20;

/// Page-locked buffers, and whether the device has read them.
pub(crate) struct Uploader {
    buffers: [(PinnedHostSlice<u8>, CudaEvent); 2],
    next: usize,
    num_threads: usize,
}

impl fmt::Debug for Uploader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Uploader").field("num_threads", &self.num_threads).finish_non_exhaustive()
    }
}

impl Uploader {
    pub fn new(device: &Device) -> Result<Self> {
        let context = device.bind()?;
        let refused = op_error("reserve page-locked memory");
        let buffer = || {
            // SAFETY: every byte that is copied to the device was written before, by `upload`.
            let bytes = unsafe { context.alloc_pinned_with_flags::<u8>(BUFFER_BYTES, 0) }.map_err(&refused)?;
            Ok::<_, rustllm_ops::Error>((bytes, context.new_event(None).map_err(&refused)?))
        };
        let num_threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        Ok(Self { buffers: [buffer()?, buffer()?], next: 0, num_threads })
    }

    /// Copies `from` to the device's memory at `to`, in the stream's order. `from` has been read when this returns.
    pub fn upload(&mut self, device: &Device, from: &[u8], to: u64) -> Result<()> {
        device.bind()?;
        let refused = op_error("copy weights to the device");
        for (i, chunk) in from.chunks(BUFFER_BYTES).enumerate() {
            let (buffer, read) = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            read.synchronize().map_err(&refused)?;
            let staged = &mut buffer.as_mut_slice().map_err(&refused)?[..chunk.len()];
            copy(chunk, staged, self.num_threads);
            let to = to + (i * BUFFER_BYTES) as u64;
            // SAFETY: the caller vouches for room at `to`; the buffer is not written before the event has come.
            let sent = unsafe { result::memcpy_htod_async(to, staged, device.stream().cu_stream()) };
            sent.and_then(|()| read.record(device.stream())).map_err(&refused)?;
        }
        Ok(())
    }
}

/// Copies on several threads: a mapped file's pages come into memory as they are read.
fn copy(from: &[u8], to: &mut [u8], num_threads: usize) {
    let share = from.len().div_ceil(num_threads).max(MIN_BYTES_PER_THREAD);
    let mut parts = from.chunks(share).zip(to.chunks_mut(share));
    let own = parts.next();
    thread::scope(|scope| {
        for (from, to) in parts {
            scope.spawn(|| to.copy_from_slice(from));
        }
        if let Some((from, to)) = own {
            to.copy_from_slice(from);
        }
    });
}
