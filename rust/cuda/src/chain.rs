//! From one step to the next on the device, and to the host one step late.
//!
//! ```text
//!   device   step N ──► tokens ─┬─ keep ─► latest ──chain_ids──► step N + 1 ──► tokens ─► ...
//!   host                        └─ copy ─────────► step N is taken in, while step N + 1 runs
//! ```

use std::sync::Arc;

use rustllm_ops::{Error, Indices, Result, RowReader, Tensor};

use crate::backend::CudaBackend;
use crate::device::{Device, Grid};
use crate::kernels::{ChainIds, KeepTokens};
use crate::pinned::Pinned;
use crate::view::{self, Matrix};

/// Threads of a block.
const BLOCK: usize = 256;

/// See [`rustllm_ops::Graphs::chained_ids`].
pub(crate) fn chained_ids(backend: &CudaBackend, ids: &Indices, rows: &Indices, tokens: &Tensor) -> Result<Indices> {
    if ids.len() != rows.len() || tokens.cols() != 2 {
        let detail = format!("{} ids, {} rows of tokens [{}, {}]", ids.len(), rows.len(), tokens.rows(), tokens.cols());
        return Err(Error::Shape { op: "chained_ids", detail });
    }
    let to = backend.scratch(size_of_val(ids.as_slice()))?;
    let chain = ChainIds {
        to: to.address(),
        ids: view::indices(ids, backend.id)?,
        rows: view::indices(rows, backend.id)?,
        tokens: backend.view(tokens)?,
        n: ids.len() as i32,
    };
    backend.device.launch("chain_ids", Grid::new((ids.len().div_ceil(BLOCK), 1, 1), BLOCK as u32), &chain)?;
    Ok(Indices::with_device(ids.as_slice().to_vec(), to))
}

/// See [`rustllm_ops::Graphs::keep`].
pub(crate) fn keep(backend: &CudaBackend, tokens: &Tensor, to: &Tensor) -> Result<()> {
    if tokens.cols() != 2 || (to.rows(), to.cols()) != (tokens.rows(), 2) {
        let detail = format!("[{}, {}] into [{}, {}]", tokens.rows(), tokens.cols(), to.rows(), to.cols());
        return Err(Error::Shape { op: "keep", detail });
    }
    let kept = KeepTokens { to: backend.view(to)?, tokens: backend.view(tokens)? };
    backend.device.launch("keep_tokens", Grid::new((tokens.rows().div_ceil(BLOCK), 1, 1), BLOCK as u32), &kept)
}

/// Memory of the host that rows are copied to.
#[derive(Debug)]
pub(crate) struct PinnedReader {
    device: Arc<Device>,
    backend: u64,
    rows: Pinned<f32>,
    /// Numbers of them that were copied last.
    len: usize,
}

impl PinnedReader {
    pub fn new(device: &Arc<Device>, backend: u64, most: usize) -> Result<Self> {
        Ok(Self { device: Arc::clone(device), backend, rows: Pinned::new(device, most)?, len: 0 })
    }
}

impl RowReader for PinnedReader {
    fn start(&mut self, x: &Tensor) -> Result<()> {
        let (from, len) = (Matrix::of(x, self.backend)?, x.rows() * x.cols());
        if x.row_stride() != x.cols() || len > self.rows.len() {
            let detail = format!("[{}, {}] in memory for {} numbers in a row", x.rows(), x.cols(), self.rows.len());
            return Err(Error::Shape { op: "read", detail });
        }
        // SAFETY: a view holds what it says; its memory is freed or used again in the stream's order.
        unsafe { self.rows.receive(&self.device, len, from.data) }?;
        self.len = len;
        Ok(())
    }

    fn wait(&mut self) -> Result<&[f32]> {
        Ok(&self.rows.elements()?[..self.len])
    }
}
