//! Drawing tokens from logits that stay on the device: the tokens that the engine's sampler draws, bit for bit.
//!
//! ```text
//!   logits ──edit_logits──► masked, biased, penalized ──sample──► tokens, in the device's memory ──read_samples──► host
//!       └───────────────────logprobs (of either)
//! ```
//!
//! `cuda/sampling.cu` draws; `cuda/sampling.cuh` says why its numbers are those of the engine's sampler.

use std::sync::Arc;

use rustllm_ops::{Error, Result, Tensor, checked_size};

use crate::backend::CudaBackend;
use crate::buffer::Buffer;
use crate::device::Grid;
use crate::kernels::{SamplingDraw, SamplingScan, SamplingWeigh};
use crate::view::{Address, Matrix};

/// Logits of a chunk, of a block of the kernels that a row has several blocks of, and weights that are summed together:
/// `cuda/sampling.cuh` has the same.
const CHUNK: usize = 128;
pub(crate) const SPAN: usize = 8192;
const DRAW_BLOCK: usize = 1024;
const BUCKETS: usize = 1024;

/// A temperature below this takes the likeliest token, as the engine's sampler has it.
const GREEDY_TEMPERATURE: f32 = 1e-5;

/// What a row's token is drawn with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplingRow {
    /// The sequence's seed.
    pub seed: u64,
    /// The token's position in its sequence.
    pub position: u64,
    /// Divides the logits; below 1e-5 the likeliest token is taken.
    pub temperature: f32,
    /// Smallest set of tokens whose probabilities reach this sum; from 1 on all.
    pub top_p: f32,
    /// Tokens less likely than this share of the likeliest's probability are dropped.
    pub min_p: f32,
    /// Number of likeliest tokens to choose from; 0 means all.
    pub top_k: u32,
}

/// What became of a row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Drawn {
    /// The token.
    Token(u32),
    /// The first token whose logit is NaN or infinite.
    InvalidLogit {
        /// The token.
        token_id: u32,
        /// Its logit.
        logit: f32,
    },
    /// Every logit is `-inf`.
    AllMasked,
}

/// Tokens that have been drawn, or will be once the device gets there.
#[derive(Debug)]
pub struct Samples {
    rows: usize,
    buffer: Arc<Buffer>,
}

/// `SamplingRow` of `cuda/sampling.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DeviceRow {
    seed: u64,
    position: u64,
    inverse_temperature: f32,
    top_p: f32,
    min_p: f32,
    top_k: u32,
}

impl From<&SamplingRow> for DeviceRow {
    fn from(row: &SamplingRow) -> Self {
        let is_greedy = row.temperature < GREEDY_TEMPERATURE;
        // Kept positive and finite: times -inf it stays -inf.
        let inverse = (1.0 / row.temperature).clamp(f32::MIN_POSITIVE, f32::MAX);
        Self {
            seed: row.seed,
            position: row.position,
            inverse_temperature: if is_greedy { 0.0 } else { inverse },
            top_p: row.top_p,
            min_p: row.min_p.min(1.0),
            top_k: row.top_k,
        }
    }
}

impl DeviceRow {
    fn is_greedy(&self) -> bool {
        self.inverse_temperature == 0.0
    }

    fn is_listed(&self, vocab_size: usize) -> bool {
        !self.is_greedy() && (1..vocab_size).contains(&(self.top_k as usize))
    }
}

/// `SampledRow` of `cuda/sampling.cuh`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct SampledRow {
    token_id: u32,
    outcome: i32,
    logit: f32,
    reserved: u32,
}

/// `SamplingScratch` of `cuda/sampling.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct SamplingScratch {
    pub chunks: Address,
    weights: Address,
    weight_chunks: Address,
    masses: Address,
    buckets: Address,
    token_ids: Address,
    chunk_list: Address,
}

/// What the kernels leave each other, and its memory.
pub(crate) struct Scratch {
    pub addresses: SamplingScratch,
    _memory: Vec<Arc<Buffer>>,
}

impl Scratch {
    /// Room for rows of logits: for their scan, and more where something is drawn, or drawn of few tokens.
    fn new(backend: &CudaBackend, logits: Matrix, draws: bool, lists: bool) -> Result<Self> {
        let (rows, vocab_size) = (logits.num_rows(), logits.num_cols());
        let chunks = vocab_size.div_ceil(CHUNK);
        let mut memory = Vec::new();
        let mut room = |wanted: bool, elements: usize, size: usize| -> Result<Address> {
            if !wanted {
                return Ok(0);
            }
            let buffer = backend.scratch(checked_size(&[rows, elements, size], "sampling")?)?;
            let address = buffer.address();
            memory.push(buffer);
            Ok(address)
        };
        let addresses = SamplingScratch {
            chunks: room(true, chunks, size_of::<f32>())?,
            weights: room(draws, vocab_size, size_of::<f32>())?,
            weight_chunks: room(draws, chunks, size_of::<f32>())?,
            masses: room(draws, vocab_size.div_ceil(DRAW_BLOCK), size_of::<f64>())?,
            buckets: room(draws, BUCKETS, size_of::<u64>())?,
            token_ids: room(lists, vocab_size, size_of::<u32>())?,
            chunk_list: room(lists, chunks, size_of::<u32>())?,
        };
        Ok(Self { addresses, _memory: memory })
    }
}

impl CudaBackend {
    /// Draws a token for every row of `logits`, `[rows, vocab_size]`, from 1 / temperature on as the engine's sampler does, and
    /// to the same bits. Ops after this one find the tokens drawn; [`read_samples`](Self::read_samples) waits for them.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows, or an empty vocabulary.
    pub fn sample(&self, logits: &Tensor, rows: &[SamplingRow]) -> Result<Samples> {
        if rows.len() != logits.rows() || logits.cols() == 0 {
            let detail = format!("{} rows of parameters for [{}, {}]", rows.len(), logits.rows(), logits.cols());
            return Err(Error::Shape { op: "sample", detail });
        }
        let logits = self.view(logits)?;
        let params: Vec<DeviceRow> = rows.iter().map(DeviceRow::from).collect();
        let draws = params.iter().any(|row| !row.is_greedy());
        let lists = params.iter().any(|row| row.is_listed(logits.num_cols()));
        let weighs = params.iter().any(|row| !row.is_greedy() && !row.is_listed(logits.num_cols()));
        let device_rows = self.upload(&params)?;
        let buffer = self.scratch(checked_size(&[rows.len(), size_of::<SampledRow>()], "sampling")?)?;
        let scratch = Scratch::new(self, logits, draws, lists)?;
        self.scan(logits, &scratch)?;
        let (rows, scratch) = (device_rows.address(), scratch.addresses);
        if weighs {
            self.device.launch("sampling_weigh", by_spans(logits), &SamplingWeigh { logits, rows, scratch })?;
        }
        let draw = SamplingDraw { logits, rows, scratch, to: buffer.address() };
        self.device.launch("sampling_draw", Grid::new((logits.num_rows(), 1, 1), 1024), &draw)?;
        Ok(Samples { rows: params.len(), buffer })
    }

    /// What [`sample`](Self::sample) has drawn, once all work before is done.
    ///
    /// # Errors
    /// A device failure.
    pub fn read_samples(&self, samples: &Samples) -> Result<Vec<Drawn>> {
        let mut rows = vec![SampledRow::default(); samples.rows];
        self.device.download(samples.buffer.address(), &mut rows)?;
        Ok(rows.iter().map(|row| drawn(row.outcome, row.token_id, row.logit)).collect())
    }

    /// Memory with a copy of `values`.
    pub(crate) fn upload<T: Copy>(&self, values: &[T]) -> Result<Arc<Buffer>> {
        let buffer = self.scratch(size_of_val(values))?;
        self.send(values, buffer.address())?;
        Ok(buffer)
    }

    /// The scan of rows that are not drawn from.
    pub(crate) fn scanned(&self, logits: Matrix) -> Result<Scratch> {
        let scratch = Scratch::new(self, logits, false, false)?;
        self.scan(logits, &scratch)?;
        Ok(scratch)
    }

    fn scan(&self, logits: Matrix, scratch: &Scratch) -> Result<()> {
        let scan = SamplingScan { logits, scratch: scratch.addresses };
        self.device.launch("sampling_scan", by_spans(logits), &scan)
    }
}

/// The grid of a kernel whose blocks take [`SPAN`] logits of a row.
fn by_spans(logits: Matrix) -> Grid {
    Grid::new((logits.num_rows(), logits.num_cols().div_ceil(SPAN), 1), 256)
}

/// A row's outcome by its number: `Outcome` of `cuda/sampling.cuh`.
pub(crate) fn drawn(outcome: i32, token_id: u32, logit: f32) -> Drawn {
    match outcome {
        0 => Drawn::Token(token_id),
        1 => Drawn::InvalidLogit { token_id, logit },
        _ => Drawn::AllMasked,
    }
}
