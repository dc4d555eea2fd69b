use std::sync::Arc;

use crate::{DType, Error, Result, Storage};

/// A checkpoint matrix in host memory, usually a memory-mapped file: what a backend makes a [`Weight`] from.
#[derive(Debug, Clone, Copy)]
pub struct HostMatrix<'a> {
    /// Element type of `bytes`.
    pub dtype: DType,
    /// Rows: output features.
    pub rows: usize,
    /// Columns: input features.
    pub cols: usize,
    /// Whether `bytes` holds the transpose, `[cols, rows]` (GPT-2's Conv1D layout).
    pub transposed: bool,
    /// Little-endian elements, `rows * cols` of them, row-major.
    pub bytes: &'a [u8],
}

impl<'a> HostMatrix<'a> {
    /// A row-major `[rows, cols]` matrix.
    ///
    /// # Errors
    /// [`Error::Shape`] when `bytes` is not exactly `rows * cols` elements.
    pub fn new(dtype: DType, rows: usize, cols: usize, bytes: &'a [u8]) -> Result<Self> {
        let want = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size()));
        if want != Some(bytes.len()) {
            return Err(Error::Shape {
                op: "host matrix",
                detail: format!("[{rows}, {cols}] {dtype} does not take {} bytes", bytes.len()),
            });
        }
        Ok(Self { dtype, rows, cols, transposed: false, bytes })
    }

    /// The same elements read as the transpose of a `[cols, rows]` matrix.
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Row `row` as `f32`.
    pub fn row(&self, row: usize) -> Vec<f32> {
        let size = self.dtype.size();
        if self.transposed {
            (0..self.cols)
                .flat_map(|col| {
                    let at = (col * self.rows + row) * size;
                    self.dtype.decode(&self.bytes[at..at + size])
                })
                .collect()
        } else {
            self.dtype.decode(&self.bytes[row * self.cols * size..(row + 1) * self.cols * size])
        }
    }
}

/// A linear layer's weight, `[out_features, in_features]`, in a layout of the backend's own.
///
/// This enum is where quantization formats live: `linear` is the one op that looks at which it is.
#[derive(Debug, Clone)]
pub enum Weight {
    /// One element of `dtype` a parameter.
    Dense {
        /// Element type the backend stores.
        dtype: DType,
        /// Rows.
        out_features: usize,
        /// Columns.
        in_features: usize,
        /// The packed elements.
        storage: Arc<dyn Storage>,
    },
}

impl Weight {
    /// Rows of the matrix.
    pub fn out_features(&self) -> usize {
        match self {
            Self::Dense { out_features, .. } => *out_features,
        }
    }

    /// Columns of the matrix.
    pub fn in_features(&self) -> usize {
        match self {
            Self::Dense { in_features, .. } => *in_features,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transposed_rows_are_columns() {
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = HostMatrix::new(DType::F32, 2, 3, &bytes).unwrap();
        assert_eq!(matrix.row(1), [4.0, 5.0, 6.0]);
        let transposed = matrix.transpose();
        assert_eq!((transposed.rows, transposed.cols), (3, 2));
        assert_eq!(transposed.row(1), [2.0, 5.0]);
    }

    #[test]
    fn refuses_bytes_that_do_not_fill_the_shape() {
        assert!(HostMatrix::new(DType::F16, 2, 3, &[0; 10]).is_err());
        assert!(HostMatrix::new(DType::F16, usize::MAX, 3, &[0; 12]).is_err());
    }
}
