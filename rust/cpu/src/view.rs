//! A tensor as kernels see it: a pointer, checked against the memory behind it.

use std::ops::Range;

use rustllm_ops::{Error, Result, Tensor};

use crate::backend::NAME;
use crate::buffer::Buffer;

/// Rows of float32 in a buffer. Valid while the tensor it was made from lives.
#[derive(Debug, Clone, Copy)]
pub(crate) struct View {
    ptr: *mut f32,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    pub(crate) stride: usize,
}

// SAFETY: a pointer with sizes; who dereferences it where is the ops' business.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// The view of a tensor that backend `backend` made.
    pub(crate) fn new(x: &Tensor, backend: u64) -> Result<Self> {
        let buffer = x.storage().as_any().downcast_ref::<Buffer>().filter(|buffer| buffer.backend() == backend);
        let buffer = buffer.ok_or(Error::ForeignStorage { backend: NAME })?;
        let (rows, cols, stride) = (x.rows(), x.cols(), x.row_stride());
        let end = match rows {
            0 => Some(0),
            _ => (rows - 1).checked_mul(stride).and_then(|n| n.checked_add(x.offset())?.checked_add(cols)),
        };
        if end.is_none_or(|end| end > buffer.capacity()) {
            let detail = format!("[{rows}, {cols}] does not lie in a buffer of {} elements", buffer.capacity());
            return Err(Error::Shape { op: "tensor", detail });
        }
        Ok(Self { ptr: buffer.as_ptr().wrapping_add(x.offset()), rows, cols, stride })
    }

    /// The view of some of the rows.
    pub(crate) fn row_range(&self, rows: Range<usize>) -> Self {
        debug_assert!(rows.start <= rows.end && rows.end <= self.rows);
        Self { ptr: self.row(rows.start), rows: rows.len(), ..*self }
    }

    /// The first element of row `row`.
    pub(crate) fn row(&self, row: usize) -> *mut f32 {
        self.ptr.wrapping_add(row * self.stride)
    }

    /// Row `row`'s elements.
    ///
    /// # Safety
    /// The row exists and nobody writes it while the slice lives.
    pub(crate) unsafe fn row_slice(&self, row: usize) -> &[f32] {
        debug_assert!(row < self.rows);
        // SAFETY: `new` checked that rows lie in the buffer.
        unsafe { std::slice::from_raw_parts(self.row(row), self.cols) }
    }

    /// Row `row`'s elements, to be written.
    ///
    /// # Safety
    /// The row exists and nobody else reads or writes it while the slice lives.
    #[allow(clippy::mut_from_ref, reason = "the view is a pointer; the caller vouches for who writes")]
    pub(crate) unsafe fn row_slice_mut(&self, row: usize) -> &mut [f32] {
        debug_assert!(row < self.rows);
        // SAFETY: `new` checked that rows lie in the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.row(row), self.cols) }
    }
}
