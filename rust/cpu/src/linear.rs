//! A linear layer: rounding the activations, and cutting the product into tasks.
//!
//! ```text
//!               panels of 16 outputs ──►
//!          ┌────────┬────────┬────────┬───┐
//!   rows   │ task 0 │ task 1 │ task 2 │   │    few rows: all of them in each task, so that weights are read once
//!    │     ├────────┼────────┼────────┼───┤    many: cut as well, when there are more threads than panels to go round
//!    ▼     │ task 4 │ task 5 │  ...   │   │
//!          └────────┴────────┴────────┴───┘
//! ```
//!
//! Cuts are free: every output is computed alone (see `gemm`).

use rustllm_ops::{DType, Result};

use crate::Isa;
use crate::gemm::LinearTask;
use crate::kernels::Kernels;
use crate::pack::PackedWeight;
use crate::simd::LANES;
use crate::step::Step;
use crate::view::View;

/// Elements of `k` computed before the next rows are: what of the panels and of the rows stays in the caches.
const K_BLOCK: usize = 512;

/// Panels of a task with many rows: widened, a block of them takes half of a second-level cache of 512 KiB.
const MAX_TASK_PANELS: usize = 8;

/// Rows from which widening a block of 16-bit weights costs less than it saves.
const WIDEN_ROWS: usize = 32;

/// Rows up to which all of `k` is one block, for a register tile holds them all.
const ONE_TILE_ROWS: usize = 6;

/// Tasks a thread should find, so that an uneven machine finishes evenly.
const TASKS_PER_THREAD: usize = 4;

/// Multiplications below which one thread is enough.
const WORTH_SHARING: usize = 64 * 1024;

/// Rows a task keeps at least when rows are cut.
const MIN_TASK_ROWS: usize = 48;

/// How a product is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    task_panels: usize,
    task_rows: usize,
}

impl Plan {
    fn new(rows: usize, panels: usize, in_features: usize, num_threads: usize) -> Self {
        let wanted = if rows * panels * LANES * in_features < WORTH_SHARING || num_threads == 1 {
            1
        } else {
            num_threads * TASKS_PER_THREAD
        };
        // Whole register tiles.
        let mut task_panels = panels.div_ceil(wanted).next_multiple_of(4);
        if rows < 2 * MIN_TASK_ROWS {
            if rows > ONE_TILE_ROWS {
                task_panels = task_panels.min(MAX_TASK_PANELS);
            }
            return Self { task_panels, task_rows: rows };
        }
        task_panels = task_panels.min(MAX_TASK_PANELS);
        let row_tasks = wanted.div_ceil(panels.div_ceil(task_panels)).min(rows / MIN_TASK_ROWS);
        Self { task_panels, task_rows: rows.div_ceil(row_tasks) }
    }
}

/// The activations as the kernel takes them, and the bytes from row to row.
#[derive(Debug, Clone, Copy)]
struct Inputs {
    x: *const u8,
    stride: usize,
}

/// `y = x @ weight.T + bias`. Shapes are checked; `bias` is null or as long as a row of `y`.
pub(crate) fn linear(
    step: &mut Step,
    (isa, kernels): (Isa, &Kernels),
    x: View,
    weight: &PackedWeight,
    bias: Option<View>,
    y: View,
) -> Result<()> {
    let (dtype, out_features, in_features) = weight.shape();
    if x.rows == 0 || out_features == 0 {
        return Ok(());
    }
    // A whole cache line between rows keeps rows of 2^n elements out of one another's cache sets.
    let padded = in_features.next_multiple_of(2 * LANES) + LANES;
    let size = if isa == Isa::Avx512Bf16 && dtype == DType::BF16 { size_of::<u16>() } else { size_of::<f32>() };
    let rounded = match dtype {
        DType::F32 => None,
        _ => Some(step.arena.take((x.rows * padded * size).div_ceil(size_of::<f32>()))?),
    };
    let inputs = match &rounded {
        None => Inputs { x: x.row(0).cast(), stride: x.stride * size },
        Some(buffer) => Inputs { x: buffer.as_ptr().cast(), stride: padded * size },
    };
    if rounded.is_some() {
        round_rows(step, kernels, x, dtype, size, inputs)?;
    }
    let plan = Plan::new(x.rows, weight.panels(), in_features, step.pool.num_threads());
    let scratch = step.scratch(MAX_TASK_PANELS * K_BLOCK * LANES)?;
    let row_tasks = x.rows.div_ceil(plan.task_rows);
    let panel_tasks = weight.panels().div_ceil(plan.task_panels);
    let product = Product { kernels, dtype, x_bytes: size, in_features };
    let shared = Shared { inputs, weights: weight.as_ptr() };
    step.run(row_tasks * panel_tasks, |worker, index| {
        let shared = &shared;
        let (panel, row) = (index / row_tasks * plan.task_panels, index % row_tasks * plan.task_rows);
        let col = panel * LANES;
        let task = LinearTask {
            x: shared.inputs.x.wrapping_add(row * shared.inputs.stride),
            x_stride: shared.inputs.stride,
            rows: plan.task_rows.min(x.rows - row),
            weights: shared.weights.wrapping_add(panel * weight.panel_bytes()),
            panel_bytes: weight.panel_bytes(),
            k: in_features,
            y: y.row(row).wrapping_add(col),
            y_stride: y.stride,
            cols: (plan.task_panels * LANES).min(out_features - col),
            first: true,
            bias: bias.map_or(std::ptr::null(), |bias| bias.row(0).cast_const().wrapping_add(col)),
        };
        // SAFETY: inputs, weights and y have the sizes named, inputs are padded, tasks' columns and rows are their own,
        // the scratch is the worker's, and the kernels were chosen among those the machine runs.
        unsafe { product.blocks(task, scratch.of(worker)) };
    })
}

/// What the tasks of a product share.
struct Product<'a> {
    kernels: &'a Kernels,
    dtype: DType,
    /// Bytes of an activation.
    x_bytes: usize,
    in_features: usize,
}

impl Product<'_> {
    /// Computes a task block by block of `k`.
    ///
    /// # Safety
    /// As [`LinearTask`] says of `task`, whose `k` is all of it; `scratch` holds `MAX_TASK_PANELS * K_BLOCK * 16` elements.
    unsafe fn blocks(&self, task: LinearTask, scratch: *mut f32) {
        let widen = match self.dtype {
            DType::F16 if task.rows >= WIDEN_ROWS => Some(self.kernels.widen_f16),
            DType::BF16 if task.rows >= WIDEN_ROWS && self.x_bytes == size_of::<f32>() => Some(self.kernels.widen_bf16),
            _ => None,
        };
        let block = if task.rows > ONE_TILE_ROWS { K_BLOCK } else { self.in_features.max(1) };
        let panels = task.cols.div_ceil(LANES);
        for start in (0..self.in_features.max(1)).step_by(block) {
            let k = block.min(self.in_features - start);
            let last = start + k == self.in_features;
            let part = LinearTask {
                x: task.x.wrapping_add(start * self.x_bytes),
                weights: task.weights.wrapping_add(start * LANES * self.dtype.size()),
                k,
                first: start == 0,
                bias: if last { task.bias } else { std::ptr::null() },
                ..task
            };
            // SAFETY: a block inside the task; what is widened is whole steps, and so is the padding of `x`.
            unsafe {
                match widen {
                    None => (self.kernels.linear(self.dtype))(&part),
                    Some(widen) => {
                        debug_assert!(panels <= MAX_TASK_PANELS);
                        widen(part.weights, part.panel_bytes, panels, k, scratch);
                        let weights = scratch.cast_const().cast();
                        // An odd `k` of bfloat16 panels has a partner of zeros.
                        let k = if self.dtype == DType::BF16 { k.next_multiple_of(2) } else { k };
                        let panel_bytes = k * LANES * size_of::<f32>();
                        (self.kernels.linear_f32)(&LinearTask { weights, panel_bytes, k, ..part });
                    }
                }
            }
        }
    }
}

/// Pointers that all tasks read.
struct Shared {
    inputs: Inputs,
    weights: *const u8,
}

// SAFETY: what they point to is only read while tasks run.
unsafe impl Sync for Shared {}

/// Rounds the activations to `dtype` into `to`, padded with zeros to whole steps.
fn round_rows(step: &mut Step, kernels: &Kernels, x: View, dtype: DType, size: usize, to: Inputs) -> Result<()> {
    let padded = x.cols.next_multiple_of(2);
    let to = Shared { inputs: to, weights: std::ptr::null() };
    step.for_rows(x.rows, x.cols, |row| {
        let to = &to;
        let (from, to) = (x.row(row), to.inputs.x.wrapping_add(row * to.inputs.stride).cast_mut());
        // SAFETY: rows are `x.cols` long there and longer than `padded` here, and each is one task's.
        unsafe {
            match dtype {
                DType::F16 => (kernels.round_f16)(from, to.cast(), x.cols, padded),
                _ if size == size_of::<u16>() => (kernels.narrow_bf16)(from, to.cast(), x.cols, padded),
                _ => (kernels.round_bf16)(from, to.cast(), x.cols, padded),
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_cover_and_share() {
        // A small product stays on one thread; one thread reads a single row's weights in one go.
        assert_eq!(Plan::new(1, 8, 128, 2), Plan { task_panels: 8, task_rows: 1 });
        assert_eq!(Plan::new(1, 304, 896, 1), Plan { task_panels: 304, task_rows: 1 });
        // Decode: four tasks a thread.
        assert_eq!(Plan::new(1, 304, 896, 2), Plan { task_panels: 40, task_rows: 1 });
        // Prefill: at most eight panels, rows cut where panels do not suffice.
        assert_eq!(Plan::new(512, 56, 4864, 2), Plan { task_panels: 8, task_rows: 256 });
        assert_eq!(Plan::new(512, 56, 4864, 16), Plan { task_panels: 4, task_rows: 103 });
    }
}
