//! Masks, bias and penalties, on logits that stay on the device.

use rustllm_ops::{Error, Result, Tensor};

use crate::backend::CudaBackend;
use crate::device::Grid;
use crate::kernels::{CopyLogits, EditLogits};

/// What is done to a row of logits, in this order. Ids past the vocabulary are passed over.
#[derive(Debug, Clone, Copy, Default)]
pub struct LogitsEdits<'a> {
    /// The only tokens that may be drawn; `None` allows all.
    pub allowed: Option<&'a [u32]>,
    /// Tokens that may not be drawn.
    pub banned: &'a [u32],
    /// Tokens and what is added to their logits; a token at most once.
    pub bias: &'a [(u32, f32)],
    /// What occurrences cost.
    pub penalties: Option<Penalties<'a>>,
}

/// Penalties on tokens that a sequence has.
#[derive(Debug, Clone, Copy)]
pub struct Penalties<'a> {
    /// Divides a positive logit and multiplies another, of every token of the sequence.
    pub repetition: f32,
    /// Subtracted once per occurrence in the output.
    pub frequency: f32,
    /// Subtracted if the output has the token.
    pub presence: f32,
    /// The tokens of prompt and output, each once, and how often the output has them.
    pub counts: &'a [(u32, u32)],
}

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
        let none = Penalties { repetition: 1.0, frequency: 0.0, presence: 0.0, counts: &[] };
        let penalties = row.penalties.unwrap_or(none);
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

impl CudaBackend {
    /// `logits` with each row's edits, as the engine's sampler makes them; `logits` stay as they are.
    ///
    /// # Errors
    /// [`Error::Shape`] for another number of rows.
    pub fn edit_logits(&self, logits: &Tensor, rows: &[LogitsEdits<'_>]) -> Result<Tensor> {
        if rows.len() != logits.rows() {
            let detail = format!("edits of {} rows for {}", rows.len(), logits.rows());
            return Err(Error::Shape { op: "edit_logits", detail });
        }
        let mut edits = Vec::new();
        let rows: Vec<RowEdits> = rows.iter().map(|row| RowEdits::list(row, &mut edits)).collect();
        let (row_list, edit_list) = (self.upload(&rows)?, self.upload(&edits)?);
        let from = self.view(logits)?;
        let (result, to) = self.result(from.num_rows(), from.num_cols())?;
        let (rows, edits) = (row_list.address(), edit_list.address());
        let grid = Grid::new((from.num_rows(), from.num_cols().div_ceil(1024), 1), 256);
        self.device.launch("copy_logits", grid, &CopyLogits { to, from, rows })?;
        let grid = Grid::new((from.num_rows(), 1, 1), 256);
        self.device.launch("edit_logits", grid, &EditLogits { to, from, rows, edits })?;
        Ok(result)
    }
}
