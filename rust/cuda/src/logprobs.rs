//! Log-probabilities of tokens, from logits that stay on the device.

use rustllm_ops::{Error, LogprobsRequest, Result, RowLogprobs, Tensor, checked_size};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{LogprobsGather, LogprobsSum};
use crate::sampling::{CHUNK, SPAN};

/// Most tokens that a row is asked for: `kMostLogprobs` of `cuda/logprobs.cu`.
pub(crate) const MAX_LOGPROBS: usize = 1024;

/// Logits whose exponentials are summed together.
const SUM_BLOCK: usize = 512;

/// `LogprobsRequest` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct DeviceRequest {
    row: u32,
    token_id: u32,
}

/// `LogprobsRow` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct LogprobsRow {
    total: f64,
    largest: f32,
    logit: f32,
    num_greater: u32,
    reserved: u32,
}

/// `TokenLogit` of `cuda/logprobs.cu`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
struct TokenLogit {
    token_id: u32,
    logit: f32,
}

/// What the log-probabilities of each request's token and of the `top` likeliest of its row are made of.
pub(crate) fn gather(
    backend: &CudaBackend,
    logits: &Tensor,
    requests: &[LogprobsRequest],
    top: usize,
) -> Result<Vec<RowLogprobs>> {
    let (rows, vocab_size) = (logits.rows(), logits.cols());
    let exists = |request: &LogprobsRequest| (request.row as usize) < rows && (request.token_id as usize) < vocab_size;
    let top = top.min(vocab_size);
    if !requests.iter().all(exists) || top > MAX_LOGPROBS {
        let detail = format!("{top} logprobs of [{rows}, {vocab_size}] for {requests:?}");
        return Err(Error::Shape { op: "logprobs", detail });
    }
    if requests.is_empty() {
        return Ok(Vec::new());
    }
    let logits = backend.view(logits)?;
    let list = requests.iter().map(|request| DeviceRequest { row: request.row, token_id: request.token_id });
    let request_list = backend.upload(&list.collect::<Vec<_>>())?;
    let room = |rows, elements, size| backend.workspace(checked_size(&[rows, elements, size], "logprobs")?);
    let chunk_list = room(rows, vocab_size.div_ceil(CHUNK), size_of::<f32>())?;
    let sums = room(requests.len(), vocab_size.div_ceil(SUM_BLOCK), size_of::<f64>())?;
    let lists = room(requests.len(), vocab_size.div_ceil(CHUNK), size_of::<u32>())?;
    let to_rows = room(requests.len(), 1, size_of::<LogprobsRow>())?;
    let to_likeliest = room(requests.len(), top, size_of::<TokenLogit>())?;
    let (list, chunks, masses) = (request_list.address(), chunk_list.address(), sums.address());
    backend.scan(logits, chunks, 0)?;
    let grid = Grid::new((requests.len(), vocab_size.div_ceil(SPAN), 1), 256);
    backend.device.launch("logprobs_sum", grid, &LogprobsSum { logits, requests: list, chunks, masses })?;
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
    backend.device.launch("logprobs_gather", Grid::new((requests.len(), 1, 1), 1024), &gather)?;
    let mut rows = vec![LogprobsRow::default(); requests.len()];
    let mut likeliest = vec![TokenLogit::default(); requests.len() * top];
    backend.device.download(to_rows.address(), &mut rows)?;
    backend.device.download(to_likeliest.address(), &mut likeliest)?;
    Ok(rows.iter().enumerate().map(|(i, row)| reported(row, &likeliest[i * top..(i + 1) * top])).collect())
}

fn reported(row: &LogprobsRow, likeliest: &[TokenLogit]) -> RowLogprobs {
    RowLogprobs {
        largest: row.largest,
        total: row.total,
        logit: row.logit,
        rank: row.num_greater + 1,
        likeliest: likeliest.iter().map(|token| (token.token_id, token.logit)).collect(),
    }
}
