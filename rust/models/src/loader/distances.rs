//! What a model computes of its weights alone, once, while it loads: what distances between rows stand for.

use rustllm_ops::{Indices, Tensor};

use super::{Loader, Result};
use crate::layers::Norm;

impl Loader<'_> {
    /// `name.weight`, `[rows, width]`, its rows normed if there is a norm.
    pub(crate) fn distance_table(&self, name: &str, rows: usize, width: usize, norm: Option<&Norm>) -> Result<Tensor> {
        let (dtype, view) = self.tensor(&format!("{name}.weight"), &[rows, width])?;
        let backend = self.loading.backend;
        let table = backend.tensor(&dtype.decode(view.bytes), rows, width)?;
        Ok(norm.map_or(Ok(table.clone()), |norm| norm.forward(backend, &table))?)
    }

    /// What the linear layer `name`, with a bias and as wide as it reads, makes of `table`: to keep, as a weight is.
    pub(crate) fn projected(&self, name: &str, table: &Tensor) -> Result<Tensor> {
        let (backend, (rows, width)) = (self.loading.backend, (table.rows(), table.cols()));
        let made = self.linear(name, width, width, true)?.forward(backend, table)?;
        let mut values = Vec::with_capacity(rows * width);
        backend.read_rows(&made, &mut |_, row| values.extend_from_slice(row))?;
        Ok(backend.tensor(&values, rows, width)?)
    }

    /// A list for the ops of every step to index with.
    pub(crate) fn indices(&self, values: Vec<u32>) -> Result<Indices> {
        Ok(self.loading.backend.indices(values)?)
    }
}
