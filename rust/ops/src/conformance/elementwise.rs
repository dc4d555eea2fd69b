//! Ops on each element, and those that only move or turn them.

use super::{Case, numbers, random_tensor, rows_of};
use crate::{Activation, Backend, Result, RopeTable, Tensor};

pub(super) fn cases(cases: &mut Vec<Case>) {
    // Polynomials for exp and erfc, good to 2e-7 of a value, and the reference's own rounding.
    let tolerance = 2e-6;
    for activation in Activation::ALL {
        for (rows, cols) in [(1, 2), (3, 34), (17, 1030)] {
            cases.push(Case::new(format!("{activation:?} [{rows}, {cols}]"), tolerance, move |backend| {
                rows_of(backend, &backend.activation(&spread(backend, rows, cols)?, activation)?)
            }));
            cases.push(Case::new(format!("gated {activation:?} [{rows}, {cols}]"), tolerance, move |backend| {
                rows_of(backend, &backend.gated_activation(&spread(backend, rows, cols)?, activation)?)
            }));
        }
    }
    for (rows, cols) in [(1, 1), (5, 33), (130, 300)] {
        cases.push(Case::new(format!("scale [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols + 1, 15)?.columns(1, cols)?;
            backend.scale(&mut x, 0.22)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("clamp [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols + 1, 15)?.columns(1, cols)?;
            backend.clamp(&mut x, 0.4)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("soft_cap [{rows}, {cols}]"), tolerance, move |backend| {
            let mut x = spread(backend, rows, cols)?;
            backend.soft_cap(&mut x, 5.0)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("add_assign [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols, 15)?;
            backend.add_assign(&mut x, &random_tensor(backend, rows, cols + 1, 16)?.columns(1, cols)?)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("mul_assign [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols, 15)?;
            backend.mul_assign(&mut x, &random_tensor(backend, rows, cols + 1, 16)?.columns(1, cols)?)?;
            rows_of(backend, &x)
        }));
    }
    cases.push(Case::new("gather_rows".into(), 0.0, |backend| {
        let x = random_tensor(backend, 9, 40, 5)?.columns(3, 33)?;
        let rows = backend.indices(vec![8, 0, 3, 3, 7])?;
        rows_of(backend, &backend.gather_rows(&x, &rows)?)
    }));
}

/// Numbers from -12 to 12, where activations go from nothing to all.
fn spread(backend: &dyn Backend, rows: usize, cols: usize) -> Result<Tensor> {
    let values: Vec<f32> = numbers(rows * cols, 14).iter().map(|v| 12.0 * v).collect();
    backend.tensor(&values, rows, cols)
}

pub(super) fn rotary_cases(cases: &mut Vec<Case>) {
    for (heads, head_dim, width) in [(1, 1, 1), (3, 24, 8), (5, 40, 40)] {
        cases.push(Case::new(format!("fill_heads {heads} of {head_dim} with {width}"), 0.0, move |backend| {
            let mut x = random_tensor(backend, 7, heads * head_dim + 3, 70)?.columns(2, heads * head_dim)?;
            let part = random_tensor(backend, 7, width + 1, 71)?.columns(1, width)?;
            backend.fill_heads(&mut x, &part, head_dim)?;
            rows_of(backend, &x)
        }));
    }
    for (heads, head_dim, rotary_dim) in [(1, 2, 2), (3, 40, 40), (2, 64, 64), (4, 80, 32), (2, 96, 96)] {
        // Two products and a sum a value, fused or not.
        let name = format!("rotary {heads} heads of {head_dim}, {rotary_dim} rotated");
        cases.push(Case::new(name, 1e-6, move |backend| {
            let rope = RopeTable::unscaled(backend, 600, rotary_dim, 10_000.0)?;
            // Keys inside a fused projection: what lies beside them must stay.
            let x = random_tensor(backend, 5, heads * head_dim + 7, 17)?;
            let mut keys = x.columns(4, heads * head_dim)?;
            backend.rotary(&mut keys, &rope, &backend.indices(vec![0, 1, 17, 599, 3])?, head_dim)?;
            rows_of(backend, &keys)
        }));
    }
}
