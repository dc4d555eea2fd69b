//! The output projection: a linear layer of which most rows are to leave their largest output behind, and no more.
//!
//! ```text
//!               vocabulary ──►
//!             ┌────────┬────────┬────────┬───┐
//!   logits of │ task 0 │ task 1 │ task 2 │   │  ──►  rows of logits
//!             │        │        │        │   │
//!   argmax of │ (c, v) │ (c, v) │ (c, v) │   │  ──►  the largest of each cut, then, in order, of all: the first of equals
//!             └────────┴────────┴────────┴───┘       is found whatever the cuts are
//! ```
//!
//! A task's sums of rows that leave no logits behind are read while they are in its caches. They are the very sums that
//! [`linear`](super::linear) writes, so a row's largest has the same bits either way.

use rustllm_ops::Result;

use super::{MAX_TASK_PANELS, Plan, Product, Shape};
use crate::argmax::Largest;
use crate::kernels::Kernels;
use crate::pack::PackedWeight;
use crate::simd::LANES;
use crate::step::Step;
use crate::view::View;

/// Panels of a task with few rows: the sums of eight rows are 32 KiB.
const MAX_CUT_PANELS: usize = 64;

/// What is computed, besides weight and bias.
#[derive(Clone, Copy)]
pub(crate) struct Finish {
    pub(crate) multiplier: f32,
    pub(crate) soft_cap: Option<f32>,
}

impl Finish {
    /// Makes `n` sums logits.
    ///
    /// # Safety
    /// `sums` is valid for `n` elements and the caller's alone; the machine has the kernels' instruction set.
    unsafe fn apply(self, kernels: &Kernels, sums: *mut f32, n: usize) {
        // SAFETY: the caller's promise.
        unsafe {
            if self.multiplier != 1.0 {
                (kernels.scale)(sums, self.multiplier, n);
            }
            if let Some(cap) = self.soft_cap {
                (kernels.soft_cap)(sums, cap, n);
            }
        }
    }
}

/// Writes the first rows' logits to `logits`, and each other row's largest to `argmax`. Shapes are checked.
pub(crate) fn lm_head(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    (weight, bias): (&PackedWeight, Option<View>),
    finish: Finish,
    (logits, argmax): (View, View),
) -> Result<()> {
    if x.rows == 0 {
        return Ok(());
    }
    let layout = weight.layout();
    let shape = Shape { rows: x.rows, panels: layout.panels(), in_features: layout.in_features };
    let tiles = kernels.tiles(layout.format);
    let plan = Plan::new(shape, MAX_TASK_PANELS, tiles, step.pool.num_threads()).narrowed(MAX_CUT_PANELS, tiles);
    let product = Product::new(step, kernels, x, weight, bias, &plan)?;
    let width = plan.task_panels * LANES;
    let sums = step.scratch(width * plan.task_runs * plan.tile_rows)?;
    let num_cuts = plan.panels.div_ceil(plan.task_panels);
    let (_cuts, cuts) = step.result(argmax.rows, num_cuts * Largest::WIDTH)?;
    step.run(plan.num_tasks(), |worker, index| {
        let part = plan.part(index, x.rows, layout.out_features);
        let (first_row, col) = (part.run * plan.tile_rows, part.panel * LANES);
        let has_argmax = first_row + part.rows > logits.rows;
        let (to, stride) = match has_argmax {
            true => (sums.of(worker), width),
            false => (logits.row(first_row).wrapping_add(col), logits.stride),
        };
        // SAFETY: parts lie inside the product and do not overlap, nor do their cuts; the scratch holds a part and is the
        // worker's.
        unsafe {
            product.compute(worker, part, to, stride);
            for row in 0..part.rows {
                let sums = to.add(row * stride);
                finish.apply(kernels, sums, part.cols);
                if first_row + row >= logits.rows {
                    let cut =
                        cuts.row(first_row + row - logits.rows).cast::<Largest>().add(part.panel / plan.task_panels);
                    (kernels.argmax)(sums, part.cols, col, cut);
                } else if has_argmax {
                    let row = logits.row(first_row + row).add(col);
                    std::ptr::copy_nonoverlapping(sums, row, part.cols);
                }
            }
        }
    })?;
    step.for_rows(argmax.rows, cuts.cols, |row| {
        // SAFETY: rows exist, and those of the result are each one task's; cuts are pairs of float32.
        unsafe {
            let cuts = std::slice::from_raw_parts(cuts.row(row).cast::<Largest>(), num_cuts);
            let best = cuts[1..].iter().fold(cuts[0], |best, cut| best.or_later(*cut));
            argmax.row(row).cast::<Largest>().write(best);
        }
    })
}
