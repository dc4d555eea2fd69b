use rustllm_ops::{DType, HostMatrix};

use super::Result;

/// Gives back the memory of a checkpoint's matrix that was copied.
pub(super) fn release(matrix: &HostMatrix<'_>) {
    if let Some(source) = matrix.source {
        source.release(matrix.bytes);
    }
}

/// A matrix made of a checkpoint's, row-major.
pub(super) struct OwnedMatrix {
    pub(super) dtype: DType,
    pub(super) cols: usize,
    /// Little-endian elements of whole rows.
    pub(super) bytes: Vec<u8>,
}

impl OwnedMatrix {
    /// The matrix as backends take it.
    pub(super) fn view(&self) -> Result<HostMatrix<'_>> {
        let rows = self.bytes.len() / (self.cols * self.dtype.size()).max(1);
        Ok(HostMatrix::new(self.dtype, rows, self.cols, &self.bytes)?)
    }
}
