//! Aligned, zeroed memory that kernels write through shared handles.

use std::ptr::NonNull;

use memmap2::MmapMut;
use rustllm_ops::{Error, Result};

/// Alignment of every buffer: a cache line, which is also the widest vector.
const ALIGNMENT: usize = 64;

/// Buffers from this size on are mapped: their pages are zero, and not there until touched.
const MAPPED_BYTES: usize = 1 << 16;

/// Size of a huge page where there are any.
const HUGE_PAGE: usize = 2 << 20;

/// Buffers from this size on may have huge pages, the last of them not full.
const HUGE_BYTES: usize = HUGE_PAGE / 4;

/// Zeroed bytes on a cache-line boundary.
///
/// Large buffers come straight from the operating system and cost memory as they are touched, as a cache for thousands of
/// blocks does while it fills.
#[derive(Debug)]
pub(crate) struct AlignedBytes {
    /// Keeps the memory; nothing goes through it.
    _owner: Owner,
    ptr: NonNull<u8>,
    len: usize,
}

/// A cache line of zeros.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Line(#[expect(dead_code, reason = "memory, not a value")] [u8; ALIGNMENT]);

#[derive(Debug)]
enum Owner {
    Lines(#[expect(dead_code, reason = "kept, not read")] Vec<Line>),
    Mapping(#[expect(dead_code, reason = "kept, not read")] MmapMut),
}

// SAFETY: the memory is owned, not tied to a thread. Who reads and writes it when is up to the backend, which runs
// one op at a time and gives each thread of an op its own elements to write.
unsafe impl Send for AlignedBytes {}
// SAFETY: as above; a shared reference gives out a raw pointer only.
unsafe impl Sync for AlignedBytes {}

impl AlignedBytes {
    /// `len` zeroed bytes for `what`.
    pub(crate) fn zeroed(len: usize, what: &'static str) -> Result<Self> {
        if len < MAPPED_BYTES {
            let mut lines = vec![Line([0; ALIGNMENT]); len.div_ceil(ALIGNMENT)];
            let ptr = NonNull::new(lines.as_mut_ptr().cast()).unwrap_or(NonNull::<Line>::dangling().cast());
            return Ok(Self { _owner: Owner::Lines(lines), ptr, len });
        }
        Self::mapped(len, what, false)
    }

    /// `len` zeroed bytes for `what` that will all be touched: in huge pages where the system has them. There are fewer page
    /// faults to fill them, and fewer misses in the translation of addresses to use them: a tile of a linear layer's result
    /// lies on as many small pages as it has rows.
    pub(crate) fn huge(len: usize, what: &'static str) -> Result<Self> {
        if len < HUGE_BYTES { Self::zeroed(len, what) } else { Self::mapped(len, what, true) }
    }

    fn mapped(len: usize, what: &'static str, huge: bool) -> Result<Self> {
        let no_memory = || Error::OutOfMemory { bytes: len, what };
        let slack = if huge { HUGE_PAGE } else { 0 };
        let size = len.checked_add(slack).filter(|size| *size <= isize::MAX as usize).ok_or_else(no_memory)?;
        let mut mapping = MmapMut::map_anon(size).map_err(|_| no_memory())?;
        let base = mapping.as_mut_ptr();
        let offset = if huge { base.align_offset(HUGE_PAGE) } else { 0 };
        #[cfg(target_os = "linux")]
        if huge {
            // Without huge pages memory is slower, not wrong.
            let _ = mapping.advise(memmap2::Advice::HugePage);
        }
        let ptr = NonNull::new(base.wrapping_add(offset)).ok_or_else(no_memory)?;
        Ok(Self { _owner: Owner::Mapping(mapping), ptr, len })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_and_zero() {
        let lens = [0, 1, 64, 1000, MAPPED_BYTES, HUGE_PAGE + 1];
        for bytes in
            lens.into_iter().flat_map(|len| [AlignedBytes::zeroed(len, "test"), AlignedBytes::huge(len, "test")])
        {
            let bytes = bytes.unwrap();
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
        for zeroed in [AlignedBytes::zeroed, AlignedBytes::huge] {
            let before = resident_bytes();
            let bytes = zeroed(1 << 30, "test").unwrap();
            let grown = resident_bytes().saturating_sub(before);
            assert!(grown < bytes.len() / 4, "{grown} bytes became resident");
        }
    }

    #[test]
    fn refuses_what_cannot_be_addressed() {
        assert!(AlignedBytes::zeroed(usize::MAX, "test").is_err());
        assert!(AlignedBytes::huge(usize::MAX, "test").is_err());
    }
}
