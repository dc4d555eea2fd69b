//! Aligned, zeroed memory that kernels write through shared handles.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;

use memmap2::MmapMut;
use rustllm_ops::{Error, Result};

/// Alignment of every buffer: a cache line, which is also the widest vector.
const ALIGNMENT: usize = 64;

/// Alignment that is asked of the allocator. Asked for more, Rust's system allocator clears the memory itself and so
/// touches every page; asked for no more than `calloc` gives anyway, it leaves that to the operating system.
const ALLOCATOR_ALIGNMENT: usize = 16;

/// Least size for which huge pages are asked for: a few of them.
const WORTH_HUGE_PAGES: usize = 8 << 20;

/// Zeroed bytes on a cache-line boundary.
///
/// Large buffers come straight from the operating system, whose pages are zero and not there until touched: a cache
/// for thousands of blocks costs memory as it fills.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    owner: Owner,
    ptr: NonNull<u8>,
    len: usize,
}

/// Whom the bytes are given back to.
#[derive(Debug)]
enum Owner {
    /// The allocator, which gave this: up to a cache line before the bytes.
    Allocator(NonNull<u8>),
    /// The operating system.
    System(#[expect(dead_code, reason = "unmaps when dropped")] MmapMut),
}

// SAFETY: the memory is owned, not tied to a thread. Who reads and writes it when is up to the backend, which runs
// one op at a time and gives each thread of an op its own elements to write.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; a shared reference gives out a raw pointer only.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zeroed bytes for `what`.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        if len == 0 {
            let ptr = NonNull::<Line>::dangling().cast();
            return Ok(Self { owner: Owner::Allocator(ptr), ptr, len });
        }
        let no_memory = || Error::OutOfMemory { bytes: len, what };
        let layout = Self::layout(len).ok_or_else(no_memory)?;
        // SAFETY: the layout's size is not zero.
        let allocation = NonNull::new(unsafe { alloc_zeroed(layout) }).ok_or_else(no_memory)?;
        // SAFETY: the offset is below `ALIGNMENT`, by which the allocation is longer than `len`.
        let ptr = unsafe { allocation.add(allocation.align_offset(ALIGNMENT)) };
        Ok(Self { owner: Owner::Allocator(allocation), ptr, len })
    }

    /// `len` zeroed bytes for `what`, in huge pages where the system has them: for memory that is read here and there, so that
    /// finding the pages does not take longer than reading them.
    pub(crate) fn zeroed_huge(len: usize, what: &'static str) -> Result<Self> {
        if len < WORTH_HUGE_PAGES {
            return Self::zeroed(len, what);
        }
        let no_memory = || Error::OutOfMemory { bytes: len, what };
        let mut map = MmapMut::map_anon(len).map_err(|_| no_memory())?;
        // A wish: without it, pages are small.
        #[cfg(target_os = "linux")]
        let _ = map.advise(memmap2::Advice::HugePage);
        let ptr = NonNull::new(map.as_mut_ptr()).ok_or_else(no_memory)?;
        Ok(Self { owner: Owner::System(map), ptr, len })
    }

    /// Of an allocation that holds `len` bytes from its first cache-line boundary on.
    fn layout(len: usize) -> Option<Layout> {
        Layout::from_size_align(len.checked_add(ALIGNMENT)?, ALLOCATOR_ALIGNMENT).ok()
    }

    /// The first byte. Valid for reads and writes of [`len`](Self::len) bytes.
    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// Number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.len
    }
}

/// Gives a dangling pointer the alignment of a real one.
#[repr(align(64))]
struct Line;

impl Drop for AlignedBytes {
    fn drop(&mut self) {
        if let Owner::Allocator(allocation) = self.owner
            && let Some(layout) = Self::layout(self.len).filter(|_| self.len > 0)
        {
            // SAFETY: `zeroed` allocated it with this layout.
            unsafe { dealloc(allocation.as_ptr(), layout) };
        }
    }
}

/// `a * b * ...` bytes, or no memory when that overflows.
pub(crate) fn checked_size(factors: &[usize], what: &'static str) -> Result<usize> {
    factors
        .iter()
        .try_fold(1usize, |product, factor| product.checked_mul(*factor))
        .filter(|bytes| *bytes <= isize::MAX as usize)
        .ok_or(Error::OutOfMemory { bytes: usize::MAX, what })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zero() {
        let zeroed = [0, 1, 64, 1000].map(|len| AlignedBytes::zeroed(len, "test"));
        let huge = [1, WORTH_HUGE_PAGES + 1].map(|len| AlignedBytes::zeroed_huge(len, "test"));
        for bytes in zeroed.into_iter().chain(huge).map(Result::unwrap) {
            assert_eq!(bytes.as_ptr() as usize % ALIGNMENT, 0);
            // SAFETY: `len` bytes, written by nobody.
            let content = unsafe { std::slice::from_raw_parts(bytes.as_ptr(), bytes.len()) };
            assert!(content.iter().all(|byte| *byte == 0));
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn takes_no_memory_until_touched() {
        let resident_bytes = || {
            let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
        };
        for zeroed in [AlignedBytes::zeroed, AlignedBytes::zeroed_huge] {
            let before = resident_bytes();
            let bytes = zeroed(1 << 30, "test").unwrap();
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < bytes.len() / 4, "{grown} bytes became resident");
        }
    }

    #[test]
    fn refuses_what_cannot_be_addressed() {
        assert!(AlignedBytes::zeroed(usize::MAX, "test").is_err());
        assert!(AlignedBytes::zeroed_huge(usize::MAX, "test").is_err());
        assert!(checked_size(&[usize::MAX, 2], "test").is_err());
    }
}
