//! A linear layer: packing the activations, and cutting the product into tasks.
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

use std::sync::Arc;

use rustllm_ops::{DType, Result, WeightFormat};

use crate::arena::Buffer;
use crate::gemm::{BLOCK_WORDS, InputsTask, LinearTask, PLAIN_GROUP_WORDS, SCRATCH_BYTES};
use crate::kernels::Kernels;
use crate::pack::{INT4_ZERO, INT8_ZERO, Layout, PackedWeight};
use crate::simd::{LANES, MAX_TILE_ROWS, TilePanels};
use crate::step::Step;
use crate::view::View;

/// Panels and rows of a task with many rows: a block of the rows' words and the task's sums stay in the second-level cache
/// (256 KiB each), and are read as often as there are panels, or blocks, to use them.
const MAX_TASK_PANELS: usize = 16;

const MAX_TASK_ROWS: usize = 256;

/// Tasks a thread should find, so that an uneven machine finishes evenly.
const TASKS_PER_THREAD: usize = 4;

/// Multiplications below which one thread is enough.
const WORTH_SHARING: usize = 64 * 1024;

/// Runs of rows a task keeps at least when rows are cut.
const MIN_TASK_RUNS: usize = 4;

/// How a product is cut.
#[derive(Debug, PartialEq, Eq)]
struct Plan {
    /// Rows of a run: those of a register tile.
    tile_rows: usize,
    runs: usize,
    task_panels: usize,
    task_runs: usize,
}

impl Plan {
    fn new(rows: usize, panels: usize, in_features: usize, tiles: &TilePanels, num_threads: usize) -> Self {
        let most = (1..=MAX_TILE_ROWS).rev().find(|rows| tiles[*rows] > 0).unwrap_or(1);
        // As even as can be: seven rows are two runs of four, not one of six and one of one.
        let fewest = rows.div_ceil(rows.div_ceil(most));
        let tile_rows = (fewest..=most).find(|rows| tiles[*rows] > 0).unwrap_or(1);
        let runs = rows.div_ceil(tile_rows);
        let shared = rows * panels * LANES * in_features >= WORTH_SHARING && num_threads > 1;
        let wanted = if shared { num_threads * TASKS_PER_THREAD } else { 1 };
        // Whole register tiles.
        let mut task_panels = panels.div_ceil(wanted).next_multiple_of(4);
        if runs > 1 {
            task_panels = task_panels.min(MAX_TASK_PANELS);
        }
        let spread = wanted.div_ceil(panels.div_ceil(task_panels)).min(runs / MIN_TASK_RUNS);
        let row_tasks = spread.max(rows.div_ceil(MAX_TASK_ROWS));
        Self { tile_rows, runs, task_panels, task_runs: runs.div_ceil(row_tasks) }
    }
}

/// Words of a row, and of a group of them.
fn words_of(layout: Layout, kernels: &Kernels) -> (usize, usize) {
    let k = layout.in_features;
    match layout.format {
        WeightFormat::Dense(DType::BF16) if kernels.pairs_bf16 => (k.div_ceil(2), PLAIN_GROUP_WORDS),
        WeightFormat::Dense(DType::BF16) => (k.next_multiple_of(2), PLAIN_GROUP_WORDS),
        WeightFormat::Dense(DType::F32 | DType::F16) => (k, PLAIN_GROUP_WORDS),
        // What a block holds: sums leave the integers where blocks end.
        WeightFormat::Int8 => (k.div_ceil(4), BLOCK_WORDS),
        WeightFormat::Int4 { group_size, .. } => (k.next_multiple_of(group_size) / 4, group_size / 4),
    }
}

/// Activations as the kernels take them.
struct Inputs {
    words: usize,
    group_words: usize,
    tile_rows: usize,
    packed: Arc<Buffer>,
    /// Of int8: a scale a row, then `[run][group][row]` offsets.
    scales: Arc<Buffer>,
    rows: usize,
}

impl Inputs {
    fn groups(&self) -> usize {
        self.words.div_ceil(self.group_words)
    }

    fn run(&self, run: usize) -> *mut u32 {
        self.packed.as_ptr().wrapping_add(run * self.words * self.tile_rows).cast()
    }

    fn row_scales(&self, run: usize) -> *mut f32 {
        self.scales.as_ptr().wrapping_add(run * self.tile_rows)
    }

    fn offsets(&self, run: usize) -> *mut i32 {
        self.scales.as_ptr().wrapping_add(self.rows + run * self.groups() * self.tile_rows).cast()
    }

    /// Rounds or quantizes `x`, run by run.
    fn pack(step: &mut Step, kernels: &Kernels, x: View, layout: Layout, plan: &Plan) -> Result<Self> {
        let (words, group_words) = words_of(layout, kernels);
        let rows = plan.runs * plan.tile_rows;
        let offsets = if layout.format.is_quantized() { rows * (1 + words.div_ceil(group_words)) } else { 0 };
        let (packed, scales) = (step.arena.take(rows * words)?, step.arena.take(offsets)?);
        let inputs = Self { words, group_words, tile_rows: plan.tile_rows, packed, scales, rows };
        let kernel = kernels.inputs(layout.format);
        let zero = match layout.format {
            WeightFormat::Int8 => i32::from(INT8_ZERO),
            WeightFormat::Int4 { symmetric: true, .. } => i32::from(INT4_ZERO),
            // Multiplied with the group's own zero points in the kernel.
            _ => 1,
        };
        step.for_rows(plan.runs, plan.tile_rows * words, |run| {
            let first = run * plan.tile_rows;
            let task = InputsTask {
                x: x.row(first),
                x_stride: x.stride,
                cols: x.cols,
                rows: plan.tile_rows.min(x.rows - first),
                tile_rows: plan.tile_rows,
                words,
                to: inputs.run(run),
                scales: inputs.row_scales(run),
                offsets: inputs.offsets(run),
                group_words,
                zero,
            };
            // SAFETY: the rows exist; the run's words, scales and offsets are inside the buffers and this task's alone.
            unsafe { kernel(&task) };
        })?;
        Ok(inputs)
    }
}

/// A product with its inputs packed, ready to be computed task by task.
pub(crate) struct Prepared<'a> {
    kernels: &'a Kernels,
    plan: Plan,
    inputs: Inputs,
    weight: &'a PackedWeight,
    bias: Option<View>,
    y: View,
}

impl<'a> Prepared<'a> {
    /// `y = x @ weight.T + bias`. Shapes are checked, and there are rows; `bias` is as long as a row of `y`.
    pub(crate) fn new(
        step: &mut Step,
        kernels: &'a Kernels,
        x: View,
        weight: &'a PackedWeight,
        bias: Option<View>,
        y: View,
    ) -> Result<Self> {
        let (layout, num_threads) = (weight.layout(), step.pool.num_threads());
        let plan = Plan::new(x.rows, layout.panels(), layout.in_features, &kernels.tile_panels, num_threads);
        let inputs = Inputs::pack(step, kernels, x, layout, &plan)?;
        Ok(Self { kernels, plan, inputs, weight, bias, y })
    }

    fn row_tasks(&self) -> usize {
        self.plan.runs.div_ceil(self.plan.task_runs)
    }

    fn num_tasks(&self) -> usize {
        self.row_tasks() * self.weight.layout().panels().div_ceil(self.plan.task_panels)
    }

    /// Computes task `index` with the scratch memory of a worker.
    fn run(&self, index: usize, scratch: *mut f32) {
        let Self { plan, inputs, weight, bias, y, .. } = self;
        let (layout, row_tasks) = (weight.layout(), self.row_tasks());
        let (panel, run) = (index / row_tasks * plan.task_panels, index % row_tasks * plan.task_runs);
        let (row, col) = (run * plan.tile_rows, panel * LANES);
        let task = LinearTask {
            x: inputs.run(run),
            words: inputs.words,
            tile_rows: plan.tile_rows,
            rows: (plan.task_runs * plan.tile_rows).min(y.rows - row),
            row_scales: inputs.row_scales(run),
            offsets: inputs.offsets(run),
            weights: weight.as_ptr().wrapping_add(panel * layout.panel_bytes()),
            panel_bytes: layout.panel_bytes(),
            group_words: inputs.group_words,
            col_scales: weight.scales().wrapping_add(col),
            y: y.row(row).wrapping_add(col),
            y_stride: y.stride,
            cols: (plan.task_panels * LANES).min(layout.out_features - col),
            bias: bias.map_or(std::ptr::null(), |bias| bias.row(0).cast_const().wrapping_add(col)),
            scratch: scratch.cast(),
        };
        // SAFETY: inputs, weights and y have the sizes named; tasks' rows and columns are their own, the scratch is the
        // worker's, and the kernels were chosen among those the machine runs.
        unsafe { self.kernels.linear(layout.format)(&task) };
    }
}

/// Computes products into rows of their own, their tasks dealt out over the threads together.
pub(crate) fn run_all(step: &mut Step, products: &[Prepared<'_>]) -> Result<()> {
    let scratch = step.scratch(SCRATCH_BYTES / size_of::<f32>())?;
    let ends: Vec<usize> = products
        .iter()
        .scan(0, |end, product| {
            *end += product.num_tasks();
            Some(*end)
        })
        .collect();
    step.run(ends.last().copied().unwrap_or(0), |worker, index| {
        let at = ends.partition_point(|end| *end <= index);
        products[at].run(index - (ends[at] - products[at].num_tasks()), scratch.of(worker));
    })
}

/// `y = x @ weight.T + bias`. Shapes are checked; `bias` is as long as a row of `y`.
pub(crate) fn linear(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    weight: &PackedWeight,
    bias: Option<View>,
    y: View,
) -> Result<()> {
    if x.rows == 0 || weight.layout().out_features == 0 {
        return Ok(());
    }
    let product = Prepared::new(step, kernels, x, weight, bias, y)?;
    let scratch = step.scratch(SCRATCH_BYTES / size_of::<f32>())?;
    step.run(product.num_tasks(), |worker, index| product.run(index, scratch.of(worker)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_cover_and_share() {
        let tiles = [0, 4, 4, 4, 4, 0, 4];
        let plan = |rows, panels, k, threads| {
            let Plan { tile_rows, runs, task_panels, task_runs } = Plan::new(rows, panels, k, &tiles, threads);
            (tile_rows, runs, task_panels, task_runs)
        };
        // A small product stays on one thread; one thread reads a single row's weights in one go.
        assert_eq!(plan(1, 8, 128, 2), (1, 1, 8, 1));
        assert_eq!(plan(1, 304, 896, 1), (1, 1, 304, 1));
        // Decode: four tasks a thread.
        assert_eq!(plan(1, 304, 896, 2), (1, 1, 40, 1));
        assert_eq!(plan(5, 304, 896, 2), (6, 1, 40, 1));
        // Two runs of four, not one of six and one of one.
        assert_eq!(plan(7, 304, 896, 2), (4, 2, 16, 2));
        // Prefill: at most sixteen panels and 256 rows; fewer rows where panels do not suffice.
        assert_eq!(plan(512, 304, 896, 2), (6, 86, 16, 43));
        assert_eq!(plan(512, 56, 4864, 16), (6, 86, 4, 18));
    }
}
