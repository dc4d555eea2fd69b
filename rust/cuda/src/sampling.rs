//! Drawing tokens from logits that stay on the device: the tokens that the engine's sampler draws, bit for bit.
//!
//! `cuda/sampling.cu` draws; `cuda/sampling.cuh` says why its numbers are those of the engine's sampler.

use std::sync::Arc;

use rustllm_ops::{
    DeviceSampler, Error, Indices, LogitsEdits, LogprobsRequest, Result, RowLogprobs, SamplingRow, Tensor, checked_size,
};

use crate::backend::CudaBackend;
use crate::buffer::Buffer;
use crate::device::Grid;
use crate::kernels::{SamplingDraw, SamplingScan, SamplingWeigh};
use crate::logits;
use crate::logprobs::{self, MAX_LOGPROBS};
use crate::view::{Address, Matrix, indices};

/// Logits of a chunk, of a block of the kernels that a row has several blocks of, and weights that are summed together:
/// `cuda/sampling.cuh` has the same.
pub(crate) const CHUNK: usize = 128;
pub(crate) const SPAN: usize = 8192;
const DRAW_BLOCK: usize = 1024;
const BUCKETS: usize = 1024;

/// `SamplingScratch` of `cuda/sampling.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SamplingScratch {
    chunks: Address,
    weights: Address,
    weight_chunks: Address,
    masses: Address,
    buckets: Address,
    token_ids: Address,
    chunk_list: Address,
}

impl SamplingScratch {
    /// Room for rows of logits, whatever they are drawn with, and its memory.
    fn new(backend: &CudaBackend, logits: Matrix) -> Result<(Self, Vec<Arc<Buffer>>)> {
        let vocab_size = logits.num_cols();
        let chunks = vocab_size.div_ceil(CHUNK);
        let mut memory = Vec::new();
        let mut room = |elements: usize, size: usize| -> Result<Address> {
            let bytes = checked_size(&[logits.num_rows(), elements, size], "sampling")?;
            let buffer = backend.workspace(bytes)?;
            let address = buffer.address();
            memory.push(buffer);
            Ok(address)
        };
        let scratch = Self {
            chunks: room(chunks, size_of::<f32>())?,
            weights: room(vocab_size, size_of::<f32>())?,
            weight_chunks: room(chunks, size_of::<f32>())?,
            masses: room(vocab_size.div_ceil(DRAW_BLOCK), size_of::<f64>())?,
            buckets: room(BUCKETS, size_of::<u64>())?,
            token_ids: room(vocab_size, size_of::<u32>())?,
            chunk_list: room(chunks, size_of::<u32>())?,
        };
        Ok((scratch, memory))
    }
}

impl DeviceSampler for CudaBackend {
    fn sample(&self, logits: &Tensor, rows: &Indices) -> Result<Tensor> {
        let vocab_sizes = 1..=1 << f32::MANTISSA_DIGITS;
        if rows.len() != logits.rows() * SamplingRow::WORDS || !vocab_sizes.contains(&logits.cols()) {
            let detail = format!("{} words of parameters for [{}, {}]", rows.len(), logits.rows(), logits.cols());
            return Err(Error::Shape { op: "sample", detail });
        }
        let (logits, rows) = (self.view(logits)?, indices(rows, self.id)?);
        let (result, to) = self.result(logits.num_rows(), 2)?;
        let (scratch, _memory) = SamplingScratch::new(self, logits)?;
        self.scan(logits, scratch.chunks, scratch.buckets)?;
        self.device.launch("sampling_weigh", by_spans(logits), &SamplingWeigh { logits, rows, scratch })?;
        let draw = SamplingDraw { to, logits, rows, scratch };
        self.device.launch("sampling_draw", Grid::new((logits.num_rows(), 1, 1), 1024), &draw)?;
        Ok(result)
    }

    fn edit_logits(&self, logits: &Tensor, rows: &[LogitsEdits<'_>]) -> Result<Tensor> {
        logits::edit(self, logits, rows)
    }

    fn max_logprobs(&self) -> usize {
        MAX_LOGPROBS
    }

    fn logprobs(&self, logits: &Tensor, requests: &[LogprobsRequest], top: usize) -> Result<Vec<RowLogprobs>> {
        logprobs::gather(self, logits, requests, top)
    }
}

impl CudaBackend {
    /// Memory with a copy of `values`.
    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> Result<Arc<Buffer>> {
        let buffer = self.scratch(size_of_val(values))?;
        self.send(values, buffer.address())?;
        Ok(buffer)
    }

    /// Writes the largest logit of each chunk of each row to `chunks`, and zeros to `buckets` if there are any.
    pub(crate) fn scan(&self, logits: Matrix, chunks: Address, buckets: Address) -> Result<()> {
        self.device.launch("sampling_scan", by_spans(logits), &SamplingScan { logits, chunks, buckets })
    }
}

/// The grid of a kernel whose blocks take [`SPAN`] logits of a row.
fn by_spans(logits: Matrix) -> Grid {
    Grid::new((logits.num_rows(), logits.num_cols().div_ceil(SPAN), 1), 256)
}
