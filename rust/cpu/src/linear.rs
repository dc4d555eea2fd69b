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

mod lm_head;

use std::sync::Arc;

use rustllm_ops::{Activation, DType, Result, WeightFormat};

use crate::buffer::Buffer;
use crate::gemm::{BLOCK_WORDS, InputsTask, LinearTask, PLAIN_GROUP_WORDS, SCRATCH_BYTES};
use crate::kernels::{Kernels, LinearKernel};
use crate::pack::{INT4_ZERO, INT8_ZERO, Layout, PackedWeight};
use crate::simd::{LANES, MAX_TILE_ROWS, Tiles};
use crate::step::{Scratch, Step};
use crate::view::View;

pub(crate) use lm_head::{Finish, lm_head};

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
    panels: usize,
    task_panels: usize,
    task_runs: usize,
}

/// What is multiplied: `rows` by `panels` of `in_features` columns.
#[derive(Clone, Copy)]
struct Shape {
    rows: usize,
    panels: usize,
    in_features: usize,
}

impl Plan {
    /// The cut of `shape` for so many threads, into tasks of at most `most_panels` where rows are many.
    fn new(shape: Shape, most_panels: usize, tiles: &Tiles, num_threads: usize) -> Self {
        let Shape { rows, panels, in_features } = shape;
        let most = (1..=MAX_TILE_ROWS).rev().find(|rows| tiles.panels[*rows] > 0).unwrap_or(1);
        let most = if rows > most { tiles.many } else { most };
        // As even as can be: seven rows are two runs of four, not one of six and one of one.
        let fewest = rows.div_ceil(rows.div_ceil(most));
        let tile_rows = (fewest..=most).find(|rows| tiles.panels[*rows] > 0).unwrap_or(1);
        let runs = rows.div_ceil(tile_rows);
        let shared = rows * panels * LANES * in_features >= WORTH_SHARING;
        let num_threads = if shared { num_threads } else { 1 };
        let wanted = if num_threads > 1 { num_threads * TASKS_PER_THREAD } else { 1 };
        // Whole register tiles.
        let width = tiles.panels[tile_rows].max(1);
        let most_tiles = if runs > 1 { most_panels / width } else { usize::MAX };
        let most_tiles = panels.div_ceil(width).div_ceil(wanted).min(most_tiles);
        let task_panels = width * even_cut(panels.div_ceil(width), most_tiles, num_threads);
        let spread = wanted.div_ceil(panels.div_ceil(task_panels)).min(runs / MIN_TASK_RUNS);
        let row_tasks = spread.max(rows.div_ceil(MAX_TASK_ROWS));
        Self { tile_rows, runs, panels, task_panels, task_runs: runs.div_ceil(row_tasks) }
    }

    /// The same with tasks of at most `most_panels`, where a task keeps its sums to itself.
    fn narrowed(self, most_panels: usize, tiles: &Tiles) -> Self {
        let width = tiles.panels[self.tile_rows].max(1);
        Self { task_panels: self.task_panels.min(most_panels / width * width), ..self }
    }

    fn row_tasks(&self) -> usize {
        self.runs.div_ceil(self.task_runs)
    }

    fn num_tasks(&self) -> usize {
        self.row_tasks() * self.panels.div_ceil(self.task_panels)
    }

    /// What task `index` computes of a product of `rows` rows and `cols` columns.
    fn part(&self, index: usize, rows: usize, cols: usize) -> Part {
        let (panel, run) = (index / self.row_tasks() * self.task_panels, index % self.row_tasks() * self.task_runs);
        Part {
            run,
            rows: (self.task_runs * self.tile_rows).min(rows - run * self.tile_rows),
            panel,
            cols: (self.task_panels * LANES).min(cols - panel * LANES),
        }
    }
}

/// Tiles of a task: `most`, or as few as half of that, where the busiest thread then has less to do by a sixteenth or more.
/// Fourteen tiles in tasks of two are eight for one of two threads and six for the other, in tasks of one seven for each.
fn even_cut(tiles: usize, most: usize, num_threads: usize) -> usize {
    let busiest = |task: usize| {
        let whole = tiles / task;
        let rest = if whole.is_multiple_of(num_threads) { tiles % task } else { 0 };
        whole.div_ceil(num_threads) * task + rest
    };
    let smaller = (most.div_ceil(2)..most).rev().min_by_key(|task| busiest(*task));
    smaller.filter(|task| 16 * busiest(*task) <= 15 * busiest(most)).unwrap_or(most)
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
        let (packed, scales) = (step.buffer(&[rows, words])?, step.buffer(&[offsets])?);
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

/// A product that is ready to be computed, part by part.
struct Product<'a> {
    kernel: LinearKernel,
    inputs: Inputs,
    weight: &'a PackedWeight,
    bias: Option<View>,
    scratch: Scratch,
}

/// A part of a product: `rows` rows from run `run` on, `cols` outputs from panel `panel` on.
#[derive(Clone, Copy)]
struct Part {
    run: usize,
    rows: usize,
    panel: usize,
    cols: usize,
}

impl<'a> Product<'a> {
    fn new(
        step: &mut Step,
        kernels: &Kernels,
        x: View,
        weight: &'a PackedWeight,
        bias: Option<View>,
        plan: &Plan,
    ) -> Result<Self> {
        let scratch = step.scratch(SCRATCH_BYTES / size_of::<f32>())?;
        Self::with_scratch(step, kernels, x, (weight, bias), plan, scratch)
    }

    fn with_scratch(
        step: &mut Step,
        kernels: &Kernels,
        x: View,
        (weight, bias): (&'a PackedWeight, Option<View>),
        plan: &Plan,
        scratch: Scratch,
    ) -> Result<Self> {
        let layout = weight.layout();
        let inputs = Inputs::pack(step, kernels, x, layout, plan)?;
        Ok(Self { kernel: kernels.linear(layout.format), inputs, weight, bias, scratch })
    }

    /// Computes `part` into rows of `y`, `y_stride` elements apart.
    ///
    /// # Safety
    /// The part is inside the product, `y` is valid for it and the caller's alone, and `worker` is this thread's number.
    unsafe fn compute(&self, worker: usize, part: Part, y: *mut f32, y_stride: usize) {
        let (layout, inputs) = (self.weight.layout(), &self.inputs);
        let col = part.panel * LANES;
        let task = LinearTask {
            x: inputs.run(part.run),
            words: inputs.words,
            tile_rows: inputs.tile_rows,
            rows: part.rows,
            row_scales: inputs.row_scales(part.run),
            offsets: inputs.offsets(part.run),
            weights: self.weight.as_ptr().wrapping_add(part.panel * layout.panel_bytes()),
            panel_bytes: layout.panel_bytes(),
            group_words: inputs.group_words,
            col_scales: self.weight.scales().wrapping_add(col),
            y,
            y_stride,
            cols: part.cols,
            bias: self.bias.map_or(std::ptr::null(), |bias| bias.row(0).cast_const().wrapping_add(col)),
            scratch: self.scratch.of(worker).cast(),
        };
        // SAFETY: inputs and weights have the sizes named, y is the caller's promise, the scratch is the worker's, and the
        // kernels were chosen among those the machine runs.
        unsafe { (self.kernel)(&task) };
    }
}

/// `y = activation(x @ weight.T + bias)`. Shapes are checked; `bias` is as long as a row of `y`.
pub(crate) fn linear(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    (weight, bias): (&PackedWeight, Option<View>),
    activation: Option<Activation>,
    y: View,
) -> Result<()> {
    let layout = weight.layout();
    if x.rows == 0 || layout.out_features == 0 {
        return Ok(());
    }
    let shape = Shape { rows: x.rows, panels: layout.panels(), in_features: layout.in_features };
    let plan = Plan::new(shape, MAX_TASK_PANELS, kernels.tiles(layout.format), step.pool.num_threads());
    let product = Product::new(step, kernels, x, weight, bias, &plan)?;
    step.run(plan.num_tasks(), |worker, index| {
        let part = plan.part(index, x.rows, layout.out_features);
        let to = y.row(part.run * plan.tile_rows).wrapping_add(part.panel * LANES);
        // SAFETY: parts lie inside the product and do not overlap.
        unsafe { product.compute(worker, part, to, y.stride) };
        let Some(activation) = activation else { return };
        for row in 0..part.rows {
            let to = to.wrapping_add(row * y.stride);
            // SAFETY: as above, while the task's sums are in its caches.
            unsafe { (kernels.activation)(activation, to, to, part.cols) };
        }
    })
}

/// `y = x @ weight.T + bias` for each of `products`, which is `(x, weight, bias, y)`, their tasks dealt out over the threads
/// together. Shapes are checked; products without rows are passed over.
pub(crate) fn linear_each<'a>(
    step: &mut Step,
    kernels: &Kernels,
    products: impl Iterator<Item = (View, &'a PackedWeight, Option<View>, View)>,
) -> Result<()> {
    let scratch = step.scratch(SCRATCH_BYTES / size_of::<f32>())?;
    let (mut ready, mut num_tasks) = (Vec::new(), 0);
    for (x, weight, bias, y) in products.filter(|(x, ..)| x.rows > 0) {
        let layout = weight.layout();
        let shape = Shape { rows: x.rows, panels: layout.panels(), in_features: layout.in_features };
        let plan = Plan::new(shape, MAX_TASK_PANELS, kernels.tiles(layout.format), step.pool.num_threads());
        let product = Product::with_scratch(step, kernels, x, (weight, bias), &plan, scratch.clone())?;
        ready.push((num_tasks, plan, product, y));
        num_tasks += ready.last().map_or(0, |(_, plan, ..)| plan.num_tasks());
    }
    step.run(num_tasks, |worker, index| {
        let (first, plan, product, y) = &ready[ready.partition_point(|(first, ..)| *first <= index) - 1];
        let part = plan.part(index - first, y.rows, y.cols);
        let to = y.row(part.run * plan.tile_rows).wrapping_add(part.panel * LANES);
        // SAFETY: parts lie inside their product and do not overlap, nor do the products' rows.
        unsafe { product.compute(worker, part, to, y.stride) };
    })
}

/// Whether [`gated_linear`] can compute with a weight of `out_features` rows: gate and up begin with a panel.
pub(crate) fn gates_are_panels(out_features: usize) -> bool {
    out_features.is_multiple_of(2 * LANES)
}

/// `y = activation(gate) * up`, gate and up the halves of `x @ weight.T + bias`, which never leave a thread's caches.
///
/// Shapes are checked, and [`gates_are_panels`].
///
/// ```text
///                 gate panels         up panels
///               ┌──┬──┬──┬──┐       ┌──┬──┬──┬──┐     a task computes the same columns of both into scratch,
///    x  ──►     │  │▓▓│  │  │       │  │▓▓│  │  │     then their outputs
///               └──┴──┴──┴──┘       └──┴──┴──┴──┘
/// ```
pub(crate) fn gated_linear(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    (weight, bias): (&PackedWeight, Option<View>),
    activation: Activation,
    y: View,
) -> Result<()> {
    let layout = weight.layout();
    if x.rows == 0 || y.cols == 0 {
        return Ok(());
    }
    let up = layout.panels() / 2;
    let shape = Shape { rows: x.rows, panels: up, in_features: layout.in_features };
    let plan = Plan::new(shape, MAX_TASK_PANELS / 2, kernels.tiles(layout.format), step.pool.num_threads());
    let product = Product::new(step, kernels, x, weight, bias, &plan)?;
    let width = plan.task_panels * LANES;
    let sums = step.scratch(2 * width * plan.task_runs * plan.tile_rows)?;
    step.run(plan.num_tasks(), |worker, index| {
        let part = plan.part(index, x.rows, y.cols);
        let sums = sums.of(worker);
        // SAFETY: both parts lie inside the product; the scratch holds as many rows of twice the width and is the worker's.
        unsafe {
            product.compute(worker, part, sums, 2 * width);
            product.compute(worker, Part { panel: up + part.panel, ..part }, sums.add(width), 2 * width);
        }
        for row in 0..part.rows {
            let to = y.row(part.run * plan.tile_rows + row).wrapping_add(part.panel * LANES);
            // SAFETY: as above; parts of `y` do not overlap.
            unsafe {
                let gate = sums.add(row * 2 * width);
                (kernels.gated_activation)(activation, gate, gate.add(width), to, part.cols);
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plans_cover_and_share() {
        let tiles = Tiles { panels: [0, 4, 4, 4, 4, 0, 4, 0, 3], many: 8 };
        let plan = |rows, panels, in_features, threads| {
            let plan = Plan::new(Shape { rows, panels, in_features }, MAX_TASK_PANELS, &tiles, threads);
            (plan.tile_rows, plan.runs, plan.task_panels, plan.task_runs)
        };
        // A small product stays on one thread; one thread reads a single row's weights in one go.
        assert_eq!(plan(1, 8, 128, 2), (1, 1, 8, 1));
        assert_eq!(plan(1, 304, 896, 1), (1, 1, 304, 1));
        // Decode: four tasks a thread.
        assert_eq!(plan(1, 304, 896, 2), (1, 1, 40, 1));
        assert_eq!(plan(5, 304, 896, 2), (6, 1, 40, 1));
        // Fourteen tiles of four panels for two threads: in tasks of one tile.
        assert_eq!(plan(1, 56, 896, 2), (1, 1, 4, 1));
        // Two runs of six, not one of eight and one of one; whole tiles of three panels.
        assert_eq!(plan(9, 304, 896, 2), (6, 2, 16, 2));
        assert_eq!(plan(16, 304, 896, 2), (8, 2, 15, 2));
        // Prefill: at most sixteen panels and 256 rows; fewer rows where panels do not suffice.
        assert_eq!(plan(512, 304, 896, 2), (8, 64, 15, 32));
        assert_eq!(plan(512, 56, 4864, 16), (8, 64, 3, 16));
    }

    #[test]
    fn parts_cover_a_product_once() {
        let tiles = Tiles { panels: [0, 4, 4, 4, 4, 0, 4, 0, 3], many: 8 };
        for (rows, cols) in [(1usize, 70usize), (9, 1000), (16, 15), (300, 4864)] {
            let shape = Shape { rows, panels: cols.div_ceil(LANES), in_features: 900 };
            let plan = Plan::new(shape, MAX_TASK_PANELS / 2, &tiles, 3);
            let mut computed = vec![0; rows * cols];
            for part in (0..plan.num_tasks()).map(|index| plan.part(index, rows, cols)) {
                for row in 0..part.rows {
                    let from = (part.run * plan.tile_rows + row) * cols + part.panel * LANES;
                    computed[from..from + part.cols].iter_mut().for_each(|count| *count += 1);
                }
            }
            assert!(computed.iter().all(|count| *count == 1), "{rows} x {cols}");
        }
    }
}
