//! From one step to the next on the device, and to the host one step late.
//!
//! ```text
//!   device   step N ──► tokens ─┬─ keep ─► latest ──chain_ids──► step N + 1 ──► tokens ─► ...
//!   host                        └─ copy ─────────► step N is taken in, while step N + 1 runs
//! ```

use std::sync::Arc;

use cudarc::driver::{CudaEvent, PinnedHostSlice, result};
use rustllm_ops::{Error, Indices, Result, RowReader, Tensor};

use crate::backend::CudaBackend;
use crate::device::{Device, Grid};
use crate::error::op_error;
use crate::kernels::{ChainIds, KeepTokens};
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

/// Page-locked memory that rows are copied to.
pub(crate) struct PinnedReader {
    device: Arc<Device>,
    backend: u64,
    staging: PinnedHostSlice<f32>,
    /// That the copy is done.
    copied: CudaEvent,
    /// Numbers of it that were copied last.
    len: usize,
}

impl std::fmt::Debug for PinnedReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PinnedReader").field("device", &self.device).field("len", &self.len).finish_non_exhaustive()
    }
}

impl PinnedReader {
    pub fn new(device: &Arc<Device>, backend: u64, most: usize) -> Result<Self> {
        let context = device.bind()?;
        let refused = op_error("reserve memory for results");
        // SAFETY: only what was copied from the device is looked at: `len` numbers.
        let staging = unsafe { context.alloc_pinned_with_flags::<f32>(most.max(1), 0) }.map_err(&refused)?;
        let copied = context.new_event(None).map_err(&refused)?;
        Ok(Self { device: Arc::clone(device), backend, staging, copied, len: 0 })
    }
}

impl RowReader for PinnedReader {
    fn start(&mut self, x: &Tensor) -> Result<()> {
        let (from, len) = (Matrix::of(x, self.backend)?, x.rows() * x.cols());
        if x.row_stride() != x.cols() || len > self.staging.len() {
            let detail = format!("[{}, {}] in memory for {} numbers in a row", x.rows(), x.cols(), self.staging.len());
            return Err(Error::Shape { op: "read", detail });
        }
        self.device.bind()?;
        let refused = op_error("copy results from the device");
        let staging = &mut self.staging.as_mut_slice().map_err(&refused)?[..len];
        // SAFETY: `from` holds as much, and the staging memory is not looked at until the event has come.
        let sent = unsafe { result::memcpy_dtoh_async(staging, from.data, self.device.stream().cu_stream()) };
        sent.and_then(|()| self.copied.record(self.device.stream())).map_err(&refused)?;
        self.len = len;
        Ok(())
    }

    fn wait(&mut self) -> Result<&[f32]> {
        let refused = op_error("copy results from the device");
        self.copied.synchronize().map_err(&refused)?;
        Ok(&self.staging.as_slice().map_err(&refused)?[..self.len])
    }
}
