//! Tensors and indices as kernels see them: addresses, checked against the memory behind them.

use rustllm_ops::{Error, Indices, Result, Tensor};

use crate::NAME;
use crate::buffer::Buffer;

/// An address in the device's memory; 0 where there is nothing.
pub(crate) type Address = u64;

/// Rows of float32: `Matrix` of `cuda/device.cuh`. Valid while the tensor it was made from lives.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct Matrix {
    pub data: Address,
    pub rows: i32,
    pub cols: i32,
    pub stride: i64,
}

impl Matrix {
    /// The view of a tensor that backend `backend` made.
    pub fn of(x: &Tensor, backend: u64) -> Result<Self> {
        let buffer = buffer_of(x, backend)?;
        let (rows, cols, stride) = (x.rows(), x.cols(), x.row_stride());
        let end = match rows {
            0 => Some(0),
            _ => (rows - 1).checked_mul(stride).and_then(|n| n.checked_add(x.offset())?.checked_add(cols)),
        };
        let fits = end.and_then(|end| end.checked_mul(size_of::<f32>())).is_some_and(|end| end <= buffer.bytes());
        match (i32::try_from(rows), i32::try_from(cols)) {
            (Ok(rows), Ok(cols)) if fits => {
                let data = buffer.address() + (x.offset() * size_of::<f32>()) as u64;
                Ok(Self { data, rows, cols, stride: stride as i64 })
            }
            _ => {
                let detail = format!("[{rows}, {cols}] does not lie in a buffer of {} bytes", buffer.bytes());
                Err(Error::Shape { op: "tensor", detail })
            }
        }
    }

    pub fn num_rows(&self) -> usize {
        self.rows as usize
    }

    pub fn num_cols(&self) -> usize {
        self.cols as usize
    }
}

/// The address of a matrix whose rows follow each other.
pub(crate) fn dense(x: &Tensor, backend: u64) -> Result<Address> {
    debug_assert!(x.rows() <= 1 || x.row_stride() == x.cols(), "rows follow each other");
    vector(x, backend)
}

/// The address of a dense vector, `[1, n]`.
pub(crate) fn vector(x: &Tensor, backend: u64) -> Result<Address> {
    Ok(Matrix::of(x, backend)?.data)
}

/// The address of a vector that may be left out.
pub(crate) fn optional_vector(x: Option<&Tensor>, backend: u64) -> Result<Address> {
    x.map_or(Ok(0), |x| vector(x, backend))
}

/// The address of indices that backend `backend` made.
pub(crate) fn indices(indices: &Indices, backend: u64) -> Result<Address> {
    let storage = indices.device().ok_or(Error::ForeignStorage { backend: NAME })?;
    Ok(buffer(storage.as_any().downcast_ref(), backend)?.address())
}

/// The memory of a tensor that backend `backend` made.
pub(crate) fn buffer_of(x: &Tensor, backend: u64) -> Result<&Buffer> {
    buffer(x.storage().as_any().downcast_ref(), backend)
}

fn buffer(buffer: Option<&Buffer>, backend: u64) -> Result<&Buffer> {
    buffer.filter(|buffer| buffer.backend() == backend).ok_or(Error::ForeignStorage { backend: NAME })
}
