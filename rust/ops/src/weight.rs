use std::fmt::{self, Debug};
use std::ops::Range;
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
    /// Where `bytes` are, if their memory can be given back before the matrix is dropped.
    pub source: Option<&'a dyn Release>,
}

/// Memory that another copy can be had of, such as a mapped file's.
pub trait Release: Debug + Sync {
    /// Says that `bytes`, a part of the memory, will not be read again soon: what of it is in this process's memory may go.
    fn release(&self, bytes: &[u8]);
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
        Ok(Self { dtype, rows, cols, transposed: false, bytes, source: None })
    }

    /// The same elements read as the transpose of a `[cols, rows]` matrix.
    pub fn transpose(self) -> Self {
        Self { rows: self.cols, cols: self.rows, transposed: !self.transposed, ..self }
    }

    /// Some of the rows of a matrix that is not transposed.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows past the end, or of a transposed matrix, whose rows lie apart.
    pub fn slice(self, rows: Range<usize>) -> Result<Self> {
        let row_bytes = self.cols * self.dtype.size();
        match self.bytes.get(rows.start * row_bytes..rows.end * row_bytes) {
            Some(bytes) if !self.transposed => Ok(Self { rows: rows.len(), bytes, ..self }),
            _ => {
                let transposed = if self.transposed { "a transposed" } else { "a" };
                let detail = format!("rows {rows:?} of {transposed} matrix [{}, {}]", self.rows, self.cols);
                Err(Error::Shape { op: "host matrix", detail })
            }
        }
    }

    /// The matrix whose memory `source` takes back.
    pub fn released_by(self, source: &'a dyn Release) -> Self {
        Self { source: Some(source), ..self }
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

/// How the elements of a [`Weight`] are kept: where quantization formats are named, once for all backends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WeightFormat {
    /// One element of the dtype a parameter.
    Dense(DType),
    /// Eight bits a parameter and a float32 scale a row; activations are quantized to eight bits row by row.
    Int8,
    /// Four bits a parameter and a float16 scale a group of a row's columns; activations as with [`Int8`](Self::Int8).
    Int4 {
        /// Columns that share a scale: 32, 64 or 128.
        group_size: usize,
        /// Whether codes are around zero; else each group has a zero point of its own.
        symmetric: bool,
    },
}

impl WeightFormat {
    /// Group sizes of [`WeightFormat::Int4`].
    pub const GROUP_SIZES: [usize; 3] = [32, 64, 128];

    /// Whether parameters are kept in fewer bits than activations are computed in.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::Dense(_))
    }
}

impl From<DType> for WeightFormat {
    fn from(dtype: DType) -> Self {
        Self::Dense(dtype)
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dense(dtype) => f.write_str(dtype.name()),
            Self::Int8 => f.write_str("int8"),
            Self::Int4 { group_size, symmetric: true } => write!(f, "int4 in groups of {group_size}"),
            Self::Int4 { group_size, symmetric: false } => {
                write!(f, "int4 in groups of {group_size} with zero points")
            }
        }
    }
}

/// A linear layer's weight, `[out_features, in_features]`, in a layout of the backend's own.
///
/// `linear` and `embedding` are the ops that look at which format it is.
#[derive(Debug, Clone)]
pub struct Weight {
    /// What the storage holds.
    pub format: WeightFormat,
    /// Rows.
    pub out_features: usize,
    /// Columns.
    pub in_features: usize,
    /// The packed elements.
    pub storage: Arc<dyn Storage>,
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
    fn slices_are_rows_of_the_matrix() {
        let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0].iter().flat_map(|v| v.to_le_bytes()).collect();
        let matrix = HostMatrix::new(DType::F32, 3, 2, &bytes).unwrap();
        let slice = matrix.slice(1..3).unwrap();
        assert_eq!((slice.rows, slice.row(0), slice.row(1)), (2, vec![3.0, 4.0], vec![5.0, 6.0]));
        assert!(matrix.slice(2..4).is_err() && matrix.transpose().slice(0..1).is_err());
    }

    #[test]
    fn refuses_bytes_that_do_not_fill_the_shape() {
        assert!(HostMatrix::new(DType::F16, 2, 3, &[0; 10]).is_err());
        assert!(HostMatrix::new(DType::F16, usize::MAX, 3, &[0; 12]).is_err());
    }
}
