//! Masks, bias and penalties, on logits that stay on the device.

use rustllm_ops::{Error, LogitsEdits, Penalties, Result, Tensor};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{CopyLogits, EditLogits};

/// `Edit` of `cuda/logits.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct Edit {
    token_id: u32,
    value: u32,
}

/// `RowEdits` of `cuda/logits.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
struct RowEdits {
    allowed: u32,
    banned: u32,
    bias: u32,
    seen: u32,
    end: u32,
    restricts: u32,
    repetition: f32,
    frequency: f32,
    presence: f32,
}

impl RowEdits {
    /// Lists a row's edits behind those of the rows before it.
    fn list(row: &LogitsEdits<'_>, edits: &mut Vec<Edit>) -> Self {
        let none = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0, counts: Vec::new() };
        let penalties = row.penalties.as_ref().unwrap_or(&none);
        let mut append = |list: &mut dyn Iterator<Item = (u32, u32)>| {
            let first = edits.len() as u32;
            edits.extend(list.map(|(token_id, value)| Edit { token_id, value }));
            first
        };
        Self {
            allowed: append(&mut row.allowed.unwrap_or_default().iter().map(|token_id| (*token_id, 0))),
            banned: append(&mut row.banned.iter().map(|token_id| (*token_id, 0))),
            bias: append(&mut row.bias.iter().map(|(token_id, bias)| (*token_id, bias.to_bits()))),
            seen: append(&mut penalties.counts.iter().copied()),
            end: edits.len() as u32,
            restricts: row.allowed.is_some().into(),
            repetition: penalties.repetition,
            frequency: penalties.frequency,
            presence: penalties.presence,
        }
    }
}

/// `logits` with each row's edits, as the engine's sampler makes them.
pub(crate) fn edit(backend: &CudaBackend, logits: &Tensor, rows: &[LogitsEdits<'_>]) -> Result<Tensor> {
    if rows.len() != logits.rows() {
        let detail = format!("edits of {} rows for {}", rows.len(), logits.rows());
        return Err(Error::Shape { op: "edit_logits", detail });
    }
    let mut edits = Vec::new();
    let rows: Vec<RowEdits> = rows.iter().map(|row| RowEdits::list(row, &mut edits)).collect();
    let (row_list, edit_list) = (backend.upload(&rows)?, backend.upload(&edits)?);
    let from = backend.view(logits)?;
    let (result, to) = backend.result(from.num_rows(), from.num_cols())?;
    let (rows, edits) = (row_list.address(), edit_list.address());
    let grid = Grid::new((from.num_rows(), from.num_cols().div_ceil(1024), 1), 256);
    backend.device.launch("copy_logits", grid, &CopyLogits { to, from, rows })?;
    let grid = Grid::new((from.num_rows(), 1, 1), 256);
    backend.device.launch("edit_logits", grid, &EditLogits { to, from, rows, edits })?;
    Ok(result)
}
