//! The first largest element of rows.

use rustllm_ops::{Error, Result, Tensor};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{ArgmaxRows, ArgmaxRuns};
use crate::memory::checked_size;

/// Columns of a block: `kRun` of `cuda/argmax.cu`.
const RUN: usize = 8192;

impl CudaBackend {
    /// The first largest element of each row: `[rows, 2]`, its column (a whole number) and its value. NaN is larger than any
    /// number.
    ///
    /// # Errors
    /// [`Error::Shape`] for rows without elements, or with more than float32 counts.
    pub fn argmax(&self, x: &Tensor) -> Result<Tensor> {
        if !(1..=1 << f32::MANTISSA_DIGITS).contains(&x.cols()) {
            return Err(Error::Shape { op: "argmax", detail: format!("rows of {}", x.cols()) });
        }
        let x = self.view(x)?;
        let (result, to) = self.result(x.num_rows(), 2)?;
        let runs = x.num_cols().div_ceil(RUN);
        let runs_of_rows = self.scratch(checked_size(&[x.num_rows(), runs, size_of::<u64>()], "an argmax")?)?;
        let best = runs_of_rows.address();
        self.device.launch("argmax_runs", Grid::new((x.num_rows(), runs, 1), 256), &ArgmaxRuns { x, best })?;
        let rows = ArgmaxRows { to, x, best, runs: runs as i32 };
        self.device.launch("argmax_rows", Grid::new((x.num_rows(), 1, 1), 32), &rows)?;
        Ok(result)
    }
}
