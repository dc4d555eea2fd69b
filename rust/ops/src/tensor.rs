use std::any::Any;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;

use crate::{Error, Result};

/// Device memory that only the backend that made it can look into.
///
/// It is interior-mutable, as device memory is: ops that update in place (`rotary`, `add_assign`, `write_kv`)
/// write through a shared handle. The step runs one op after another, so no two ops touch storage at once.
pub trait Storage: Any + Debug + Send + Sync {
    /// For the backend's downcast.
    fn as_any(&self) -> &dyn Any;
}

/// A matrix of activations, `[rows, cols]`: a view of storage whose rows may lie apart.
///
/// ```text
///   qkv = linear(x, w_qkv)            one storage, row_stride = q + k + v columns
///   ┌──────────┬─────┬─────┐
///   │    q     │  k  │  v  │ row 0   columns(0, q)      is a view, no copy
///   │    q     │  k  │  v  │ row 1
///   └──────────┴─────┴─────┘
/// ```
///
/// Rows are tokens of the flat ragged batch. Heads are not a dimension: they are runs of `head_dim` columns, and ops
/// that care are told their size. The element type is the backend's activation type.
#[derive(Debug, Clone)]
pub struct Tensor {
    storage: Arc<dyn Storage>,
    offset: usize,
    rows: usize,
    cols: usize,
    row_stride: usize,
}

impl Tensor {
    /// A dense `[rows, cols]` matrix at the start of `storage`. For backends.
    pub fn new(storage: Arc<dyn Storage>, rows: usize, cols: usize) -> Self {
        Self { storage, offset: 0, rows, cols, row_stride: cols }
    }

    /// Number of rows (tokens).
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns (features).
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Elements from one row's start to the next one's.
    pub fn row_stride(&self) -> usize {
        self.row_stride
    }

    /// Elements from the storage's start to the first row.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// The memory behind the view.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// The view of rows `start .. start + len`, sharing storage.
    ///
    /// # Errors
    /// [`Error::Shape`] when the range leaves the matrix.
    pub fn row_range(&self, start: usize, len: usize) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > self.rows) {
            let detail = format!("rows {start}..{start}+{len} of a matrix with {} rows", self.rows);
            return Err(Error::Shape { op: "row_range", detail });
        }
        Ok(Self { offset: self.offset + start * self.row_stride, rows: len, ..self.clone() })
    }

    /// The same view of other storage. For backends.
    pub fn with_storage(&self, storage: Arc<dyn Storage>) -> Self {
        Self { storage, ..self.clone() }
    }

    /// The view of columns `start .. start + len`, sharing storage.
    ///
    /// # Errors
    /// [`Error::Shape`] when the range leaves the matrix.
    pub fn columns(&self, start: usize, len: usize) -> Result<Self> {
        if start.checked_add(len).is_none_or(|end| end > self.cols) {
            return Err(Error::Shape {
                op: "columns",
                detail: format!("columns {start}..{start}+{len} of a matrix with {} columns", self.cols),
            });
        }
        Ok(Self { offset: self.offset + start, cols: len, ..self.clone() })
    }
}

/// A list of `u32` that ops index with: token ids, positions, slots, block tables.
///
/// The host copy is what the CPU reads; a device backend attaches its own through [`Backend::indices`].
///
/// [`Backend::indices`]: crate::Backend::indices
#[derive(Debug, Clone)]
pub struct Indices {
    host: Vec<u32>,
    device: Option<Arc<dyn Storage>>,
}

impl Indices {
    /// Indices that live on the host only.
    pub fn host(host: Vec<u32>) -> Self {
        Self { host, device: None }
    }

    /// Indices with a copy in device memory. For backends.
    pub fn with_device(host: Vec<u32>, device: Arc<dyn Storage>) -> Self {
        Self { host, device: Some(device) }
    }

    /// The values.
    pub fn as_slice(&self) -> &[u32] {
        &self.host
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.host.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.host.is_empty()
    }

    /// Of starts in order, as `query_start_loc` has them, the run that `row` lies in: from the last start up to it to the next.
    pub fn run_of(&self, row: usize) -> Range<usize> {
        let next = self.host.partition_point(|start| *start as usize <= row);
        let start = |at: usize| self.host.get(at).map_or(row, |start| *start as usize);
        next.checked_sub(1).map_or(row, start)..start(next)
    }

    /// The device copy, if the backend made one.
    pub fn device(&self) -> Option<&Arc<dyn Storage>> {
        self.device.as_ref()
    }
}
