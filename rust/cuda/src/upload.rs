//! From the host's memory, usually a mapped file's, to the device at the speed of the bus.
//!
//! ```text
//!   mapped file  ──several threads──►  page-locked A  ──the device──►  weights
//!                                      page-locked B      copies A while B is filled
//! ```
//!
//! The device reads page-locked memory by itself; the driver would copy other memory first, on one thread.
//!
//! What a step sends is small, and goes through a ring of page-locked slots:
//!
//! ```text
//!   ids   positions   slots   ...        slot 0 │ slot 1 │ slot 2 │ ...      each is filled again once the device has read it
//! ```

use std::mem::MaybeUninit;
use std::num::NonZero;
use std::{ptr, slice, thread};

use rustllm_ops::Result;

use crate::device::Device;
use crate::pinned::Pinned;

/// Bytes of each of the two buffers.
const BUFFER_BYTES: usize = 32 << 20;

/// Threads that fill a buffer at most: together they are faster than the bus.
const MAX_THREADS: usize = 8;

/// Bytes below which a thread is not worth starting.
const MIN_BYTES_PER_THREAD: usize = 1 << 20;

/// Two page-locked buffers.
#[derive(Debug)]
pub(crate) struct Uploader {
    buffers: [Pinned<u8>; 2],
    next: usize,
    num_threads: usize,
}

impl Uploader {
    pub fn new(device: &Device) -> Result<Self> {
        let buffer = || Pinned::new(device, BUFFER_BYTES);
        let num_threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        Ok(Self { buffers: [buffer()?, buffer()?], next: 0, num_threads })
    }

    /// Copies `from` to the device's memory at `to`, in the stream's order. `from` has been read when this returns.
    pub fn upload(&mut self, device: &Device, from: &[u8], to: u64) -> Result<()> {
        for (i, chunk) in from.chunks(BUFFER_BYTES).enumerate() {
            let buffer = &mut self.buffers[self.next];
            self.next = 1 - self.next;
            copy(chunk, &mut buffer.elements()?[..chunk.len()], self.num_threads);
            // SAFETY: the caller vouches for room at `to`.
            unsafe { buffer.send(device, chunk.len(), to + (i * BUFFER_BYTES) as u64) }?;
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

/// Slots of the ring, and the bytes of each.
const SLOTS: usize = 16;
const SLOT_BYTES: usize = 256 << 10;

/// The ring of slots.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    slots: Vec<Pinned<u8>>,
    next: usize,
}

impl Ring {
    /// As [`Uploader::upload`], for values that are sent while others wait for what comes after.
    pub fn upload<T: Copy>(&mut self, device: &Device, from: &[T], to: u64) -> Result<()> {
        // SAFETY: the slice's own bytes; those that its elements leave out are copied, and looked at by nobody.
        let bytes = unsafe { slice::from_raw_parts(from.as_ptr().cast::<MaybeUninit<u8>>(), size_of_val(from)) };
        for (i, chunk) in bytes.chunks(SLOT_BYTES).enumerate() {
            if self.next == self.slots.len() {
                self.slots.push(Pinned::new(device, SLOT_BYTES)?);
            }
            let slot = &mut self.slots[self.next];
            self.next = (self.next + 1) % SLOTS;
            let staged = slot.elements()?.as_mut_ptr();
            // SAFETY: a chunk is no longer than a slot, and a slot is no part of what anybody uploads.
            unsafe { ptr::copy_nonoverlapping(chunk.as_ptr().cast::<u8>(), staged, chunk.len()) };
            // SAFETY: the caller vouches for room at `to`.
            unsafe { slot.send(device, chunk.len(), to + (i * SLOT_BYTES) as u64) }?;
        }
        Ok(())
    }
}
