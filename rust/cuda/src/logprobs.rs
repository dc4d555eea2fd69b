//! Log-probabilities of tokens, from logits that stay on the device.

use rustllm_ops::{Error, Result, Tensor, checked_size};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{LogprobsGather, LogprobsSum};
use crate::sampling::{Drawn, SPAN, drawn};

/// Most tokens that a row is asked for: `kMostLogprobs` of `cuda/logprobs.cu`.
pub const MAX_LOGPROBS: usize = 1024;

/// Logits whose exponentials are summed together, and those of a chunk.
const SUM_BLOCK: usize = 512;
const CHUNK: usize = 128;

/// What is asked of a row of logits: `LogprobsRequest` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct LogprobsRequest {
    /// The row.
    pub row: u32,
    /// The token that was drawn from it.
    pub token_id: u32,
}

/// A row's logits as far as they are reported. A logprob is `((logit - largest) - total.ln()) as f32`, in float64.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLogprobs {
    /// The largest logit.
    pub largest: f32,
    /// The sum of `e^(logit - largest)`.
    pub total: f64,
    /// The logit of the token asked for.
    pub logit: f32,
    /// One more than the number of greater logits.
    pub rank: u32,
    /// The likeliest tokens and their logits: by descending logit, equal ones by ascending id.
    pub likeliest: Vec<(u32, f32)>,
}

/// `LogprobsRow` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct LogprobsRow {
    total: f64,
    largest: f32,
    logit: f32,
    num_greater: u32,
    outcome: i32,
}

/// `TokenLogit` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct TokenLogit {
    token_id: u32,
    logit: f32,
}

impl CudaBackend {
    /// For each request what the log-probabilities of its token and of the `top` likeliest are made of, once all work before is
    /// done; or why its row has none.
    ///
    /// # Errors
    /// [`Error::Shape`] for a row or a token there is not, or more than [`MAX_LOGPROBS`] tokens.
    pub fn logprobs(
        &self,
        logits: &Tensor,
        requests: &[LogprobsRequest],
        top: usize,
    ) -> Result<Vec<std::result::Result<RowLogprobs, Drawn>>> {
        let (rows, vocab_size) = (logits.rows(), logits.cols());
        let exists =
            |request: &LogprobsRequest| (request.row as usize) < rows && (request.token_id as usize) < vocab_size;
        let top = top.min(vocab_size);
        if !requests.iter().all(exists) || top > MAX_LOGPROBS {
            let detail = format!("{top} logprobs of [{rows}, {vocab_size}] for {requests:?}");
            return Err(Error::Shape { op: "logprobs", detail });
        }
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        let logits = self.view(logits)?;
        let scan = self.scanned(logits)?;
        let request_list = self.upload(requests)?;
        let room = |elements, size| self.scratch(checked_size(&[requests.len(), elements, size], "logprobs")?);
        let sums = room(vocab_size.div_ceil(SUM_BLOCK), size_of::<f64>())?;
        let lists = room(vocab_size.div_ceil(CHUNK), size_of::<u32>())?;
        let (to_rows, to_likeliest) = (room(1, size_of::<LogprobsRow>())?, room(top, size_of::<TokenLogit>())?);
        let (list, chunks, masses) = (request_list.address(), scan.addresses.chunks, sums.address());
        let grid = Grid::new((requests.len(), vocab_size.div_ceil(SPAN), 1), 256);
        self.device.launch("logprobs_sum", grid, &LogprobsSum { logits, requests: list, chunks, masses })?;
        let gather = LogprobsGather {
            logits,
            requests: list,
            chunks,
            masses,
            chunk_lists: lists.address(),
            top: top as i32,
            rows: to_rows.address(),
            likeliest: to_likeliest.address(),
        };
        self.device.launch("logprobs_gather", Grid::new((requests.len(), 1, 1), 1024), &gather)?;
        let mut rows = vec![LogprobsRow::default(); requests.len()];
        let mut likeliest = vec![TokenLogit::default(); requests.len() * top];
        self.device.download(to_rows.address(), &mut rows)?;
        self.device.download(to_likeliest.address(), &mut likeliest)?;
        Ok(rows.iter().enumerate().map(|(i, row)| reported(row, &likeliest[i * top..(i + 1) * top])).collect())
    }
}

fn reported(row: &LogprobsRow, likeliest: &[TokenLogit]) -> std::result::Result<RowLogprobs, Drawn> {
    match drawn(row.outcome, 0, row.largest) {
        Drawn::Token(_) => Ok(RowLogprobs {
            largest: row.largest,
            total: row.total,
            logit: row.logit,
            rank: row.num_greater + 1,
            likeliest: likeliest.iter().map(|token| (token.token_id, token.logit)).collect(),
        }),
        failure => Err(failure),
    }
}
