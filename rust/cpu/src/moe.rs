//! Mixture of experts: each row goes through the few experts chosen for it, and each expert takes all its rows at once.
//!
//! ```text
//!   routing          row 0: e2 e0     row 1: e0 e3     row 2: e2 e3
//!   places           e0: rows 0 1   e2: rows 0 2   e3: rows 1 2         sorted by expert: a wave is some experts' places
//!   gathered x       [ 0 1 | 0 2 | 1 2 ]
//!   gate_up, down    one product an expert, their tasks dealt out over the threads together: weights are read once
//!   y                row 0: += w * e0's, += w * e2's     row 1: += e0's, += e3's     row 2: ...
//! ```
//!
//! A wave has at most as many places as there are rows (or a few hundred, if that is more), so that temporaries are those of
//! one dense layer, however many experts a row has. Sums run in the order of the experts, which waves do not change.

use std::ops::Range;

use rustllm_ops::{GatedActivation, Result, check};

use crate::kernels::Kernels;
use crate::linear::linear_each;
use crate::pack::PackedWeight;
use crate::step::Step;
use crate::view::View;

/// Places a wave may have however few rows there are.
const MIN_WAVE: usize = 256;

/// An expert's weights and biases as kernels read them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PackedExpert<'a> {
    pub(crate) gate_up: &'a PackedWeight,
    pub(crate) gate_up_bias: Option<View>,
    pub(crate) down: &'a PackedWeight,
    pub(crate) down_bias: Option<View>,
}

/// Rows sorted by expert.
struct Places {
    /// Where each expert's places start, then their number.
    starts: Vec<usize>,
    /// The row of each place.
    rows: Vec<usize>,
    /// Of each row its places and what each counts for, in the order of the experts.
    of_row: Vec<(usize, f32)>,
    top_k: usize,
}

impl Places {
    fn sort(experts: View, weights: View, num_experts: usize) -> Result<Self> {
        let top_k = experts.cols;
        // SAFETY: the rows exist, and no op runs beside this one.
        let chosen = |row: usize| unsafe { experts.row_slice(row) };
        check::expert_numbers((0..experts.rows).flat_map(|row| chosen(row).iter().copied()), num_experts)?;
        let mut starts = vec![0; num_experts + 1];
        (0..experts.rows).flat_map(chosen).for_each(|expert| starts[*expert as usize + 1] += 1);
        (0..num_experts).for_each(|expert| starts[expert + 1] += starts[expert]);
        let mut next = starts.clone();
        let mut rows = vec![0; experts.rows * top_k];
        let mut of_row = vec![(0, 0.0); experts.rows * top_k];
        for row in 0..experts.rows {
            // SAFETY: as above.
            let weights = unsafe { weights.row_slice(row) };
            let places = &mut of_row[row * top_k..(row + 1) * top_k];
            for ((expert, weight), place) in chosen(row).iter().zip(weights).zip(places.iter_mut()) {
                let at = &mut next[*expert as usize];
                *place = (*at, *weight);
                rows[*at] = row;
                *at += 1;
            }
            places.sort_unstable_by_key(|(place, _)| *place);
        }
        Ok(Self { starts, rows, of_row, top_k })
    }

    /// Experts, in runs that have no more places than a wave.
    fn waves(&self, limit: usize) -> Vec<Range<usize>> {
        let mut waves = Vec::new();
        let (mut first, last) = (0, self.starts.len() - 1);
        while first < last {
            let fitting = (first + 1..=last).take_while(|end| self.starts[*end] - self.starts[first] <= limit);
            let end = fitting.last().unwrap_or(first + 1);
            waves.push(first..end);
            first = end;
        }
        waves
    }
}

/// `y = sum(weight * down(activation(gate_up(x))))` over the experts of each row. Shapes are checked.
pub(crate) fn moe(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    (chosen, weights): (View, View),
    experts: &[PackedExpert<'_>],
    activation: GatedActivation,
    y: View,
) -> Result<()> {
    let places = Places::sort(chosen, weights, experts.len())?;
    // SAFETY: each row of the new result is one task's.
    step.for_rows(y.rows, y.cols, |row| unsafe { y.row_slice_mut(row).fill(0.0) })?;
    for wave in places.waves(x.rows.max(MIN_WAVE)) {
        compute(step, kernels, x, &places, wave, experts, activation, y)?;
    }
    Ok(())
}

/// Adds what the experts of a wave make of their rows.
#[allow(clippy::too_many_arguments, reason = "the operands of the op, and the wave")]
fn compute(
    step: &mut Step,
    kernels: &Kernels,
    x: View,
    places: &Places,
    wave: Range<usize>,
    experts: &[PackedExpert<'_>],
    activation: GatedActivation,
    y: View,
) -> Result<()> {
    let span = places.starts[wave.start]..places.starts[wave.end];
    if span.is_empty() {
        return Ok(());
    }
    let inner_size = experts[wave.start].down.layout().in_features;
    let (gathered_tensor, gathered) = step.result(span.len(), x.cols)?;
    step.for_rows(span.len(), x.cols, |place| {
        let row = places.rows[span.start + place];
        // SAFETY: the row exists; each row of the new tensor is one task's.
        unsafe { gathered.row_slice_mut(place).copy_from_slice(x.row_slice(row)) };
    })?;
    let (_gate_up_tensor, gate_up) = step.result(span.len(), 2 * inner_size)?;
    let own = |expert: usize| places.starts[expert] - span.start..places.starts[expert + 1] - span.start;
    linear_each(
        step,
        kernels,
        wave.clone().map(|number| {
            let PackedExpert { gate_up: weight, gate_up_bias, .. } = experts[number];
            (gathered.row_range(own(number)), weight, gate_up_bias, gate_up.row_range(own(number)))
        }),
    )?;
    drop(gathered_tensor);
    let (_inner_tensor, inner) = step.result(span.len(), inner_size)?;
    step.for_rows(span.len(), 2 * inner_size, |place| activate(kernels, activation, gate_up, inner, place))?;
    let (_output_tensor, output) = step.result(span.len(), x.cols)?;
    linear_each(
        step,
        kernels,
        wave.map(|number| {
            let PackedExpert { down, down_bias, .. } = experts[number];
            (inner.row_range(own(number)), down, down_bias, output.row_range(own(number)))
        }),
    )?;
    step.for_rows(y.rows, places.top_k * y.cols, |row| {
        for (place, weight) in &places.of_row[row * places.top_k..(row + 1) * places.top_k] {
            if span.contains(place) {
                // SAFETY: both rows exist and are as wide as the result, whose row is one task's.
                unsafe { (kernels.add_scaled)(y.row(row), output.row(place - span.start), *weight, y.cols) };
            }
        }
    })
}

/// Activates a row. Shapes are checked, the row of `to` the caller's alone.
fn activate(kernels: &Kernels, activation: GatedActivation, gate_up: View, to: View, row: usize) {
    let (gate, n) = (gate_up.row(row), to.cols);
    let up = gate.wrapping_add(n);
    // SAFETY: a row of `gate_up` has twice the elements of one of `to`.
    unsafe {
        match activation {
            GatedActivation::Plain(activation) => (kernels.gated_activation)(activation, gate, up, to.row(row), n),
            GatedActivation::ClampedSwiglu { alpha, limit } => {
                (kernels.clamped_swiglu)(alpha, limit, gate, up, to.row(row), n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waves_cover_all_experts_and_keep_to_the_limit() {
        let places = Places { starts: vec![0, 3, 3, 8, 9, 9, 12], rows: vec![], of_row: vec![], top_k: 1 };
        assert_eq!(places.waves(4), [0..2, 2..3, 3..6]);
        assert_eq!(places.waves(100).len(), 1);
        assert_eq!(places.waves(8), [0..3, 3..6]);
    }
}
