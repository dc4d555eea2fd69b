//! Products with weights, and rows of them.

use super::{Case, FORMATS, random_tensor, random_weight, rows_of};
use crate::{Activation, Backend, Result, Tensor, Weight};

pub(super) fn linear_cases(cases: &mut Vec<Case>) {
    let shapes = [
        // rows, in_features, out_features
        (1, 1, 1),
        (1, 64, 48),
        (1, 333, 129),
        (2, 33, 17),
        (3, 16, 65),
        (5, 70, 80),
        (7, 129, 31),
        (8, 64, 64),
        (16, 100, 50),
        (17, 1027, 40),
        (33, 48, 130),
        (64, 515, 33),
        (130, 77, 200),
        (130, 1030, 16),
    ];
    for format in FORMATS {
        for (rows, k, n) in shapes {
            // Sums of k products of numbers below 1 in another order: each addition rounds by at most 2^-24 of a partial sum
            // that is typically sqrt(k), and the roundings add up as a random walk. Eight times that.
            let tolerance = 8.0 * (k as f32) * 2f32.powi(-24);
            for bias in [false, true] {
                let name = format!("linear {format} [{rows}, {k}] x [{n}, {k}]{}", if bias { " + bias" } else { "" });
                cases.push(Case::new(name, tolerance.max(1e-6), move |backend| {
                    // A view that starts and ends inside its storage.
                    let x = random_tensor(backend, rows, k + 8, 1)?.columns(5, k)?;
                    let weight = random_weight(backend, n, k, format, 2)?;
                    let bias = bias.then(|| random_tensor(backend, 1, n, 3)).transpose()?;
                    rows_of(backend, &backend.linear(&x, &weight, bias.as_ref())?)
                }));
            }
        }
    }
}

pub(super) fn fused_linear_cases(cases: &mut Vec<Case>) {
    // Widths of gate and up that are whole vectors, and one that is not; rows of one register tile, of several and of several tasks.
    let shapes = [(1, 64, 16), (6, 333, 48), (8, 70, 23), (24, 129, 80), (300, 40, 272)];
    for format in FORMATS {
        for (rows, k, n) in shapes {
            // As `linear`'s, of two factors, one of which an activation has passed.
            let tolerance = 16.0 * (k as f32) * 2f32.powi(-24);
            for bias in [false, true] {
                let bias_name = if bias { " + bias" } else { "" };
                let name = |op| format!("{op} {format} [{rows}, {k}] x [2 x {n}, {k}]{bias_name}");
                let inputs = move |backend: &dyn Backend| -> Result<(Tensor, Weight, Option<Tensor>)> {
                    let x = random_tensor(backend, rows, k + 8, 1)?.columns(5, k)?;
                    let weight = random_weight(backend, 2 * n, k, format, 2)?;
                    Ok((x, weight, bias.then(|| random_tensor(backend, 1, 2 * n, 3)).transpose()?))
                };
                let tolerance = tolerance.max(2e-6);
                cases.push(Case::new(name("gated_linear"), tolerance, move |backend| {
                    let (x, weight, bias) = inputs(backend)?;
                    rows_of(backend, &backend.gated_linear(&x, &weight, bias.as_ref(), Activation::Silu)?)
                }));
                cases.push(Case::new(name("activated_linear"), tolerance, move |backend| {
                    let (x, weight, bias) = inputs(backend)?;
                    rows_of(backend, &backend.activated_linear(&x, &weight, bias.as_ref(), Activation::Gelu)?)
                }));
            }
        }
    }
}

pub(super) fn embedding_cases(cases: &mut Vec<Case>) {
    for format in FORMATS {
        for (rows, cols, count) in [(1, 1, 1), (50, 33, 7), (100, 64, 130)] {
            let name = format!("embedding {format} {count} of [{rows}, {cols}]");
            cases.push(Case::new(name, 0.0, move |backend| {
                let table = random_weight(backend, rows, cols, format, 4)?;
                let ids = backend.indices((0..count).map(|i| (i * 37 % rows) as u32).collect())?;
                rows_of(backend, &backend.embedding(&ids, &table)?)
            }));
        }
    }
}
