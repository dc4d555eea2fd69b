//! The first largest element of rows.

use rustllm_ops::{Result, Tensor, checked_size};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{ArgmaxRows, ArgmaxRuns};

/// Columns of a block: `kRun` of `cuda/argmax.cu`.
const RUN: usize = 8192;

/// The first largest element of each row: `[rows, 2]`, its column and its value.
pub(crate) fn argmax(backend: &CudaBackend, x: &Tensor) -> Result<Tensor> {
    let x = backend.view(x)?;
    let (result, to) = backend.result(x.num_rows(), 2)?;
    let runs = x.num_cols().div_ceil(RUN);
    let runs_of_rows = backend.scratch(checked_size(&[x.num_rows(), runs, size_of::<u64>()], "an argmax")?)?;
    let best = runs_of_rows.address();
    backend.device.launch("argmax_runs", Grid::new((x.num_rows(), runs, 1), 256), &ArgmaxRuns { x, best })?;
    let rows = ArgmaxRows { to, x, best, runs: runs as i32 };
    backend.device.launch("argmax_rows", Grid::new((x.num_rows(), 1, 1), 32), &rows)?;
    Ok(result)
}
