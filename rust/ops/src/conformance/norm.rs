//! Norms, of whole rows and of each head.

use super::{Case, random_tensor, rows_of};

pub(super) fn cases(cases: &mut Vec<Case>) {
    // Sums of up to a few thousand squares in another order, then a square root: a few units in the last place.
    let tolerance = 4e-6;
    let eps = 1e-5;
    for (rows, cols) in [(1, 1), (1, 64), (2, 100), (3, 4097), (17, 33), (130, 16)] {
        cases.push(Case::new(format!("rms_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols + 3, 6)?.columns(3, cols)?;
            let weight = random_tensor(backend, 1, cols, 7)?;
            rows_of(backend, &backend.rms_norm(&x, &weight, eps)?)
        }));
        cases.push(Case::new(format!("add_rms_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols, 6)?;
            let mut residual = random_tensor(backend, rows, cols, 8)?;
            let weight = random_tensor(backend, 1, cols, 7)?;
            let normed = backend.add_rms_norm(&x, &mut residual, &weight, eps)?;
            Ok([rows_of(backend, &normed)?, rows_of(backend, &residual)?].concat())
        }));
        for bias in [false, true] {
            let name = format!("layer_norm [{rows}, {cols}], bias {bias}");
            cases.push(Case::new(name, tolerance, move |backend| {
                let x = random_tensor(backend, rows, cols, 9)?;
                let weight = random_tensor(backend, 1, cols, 10)?;
                let bias = bias.then(|| random_tensor(backend, 1, cols, 11)).transpose()?;
                rows_of(backend, &backend.layer_norm(&x, &weight, bias.as_ref(), eps)?)
            }));
        }
        cases.push(Case::new(format!("add_layer_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols, 9)?;
            let mut residual = random_tensor(backend, rows, cols, 8)?;
            let (weight, bias) = (random_tensor(backend, 1, cols, 10)?, random_tensor(backend, 1, cols, 11)?);
            let normed = backend.add_layer_norm(&x, &mut residual, &weight, Some(&bias), eps)?;
            Ok([rows_of(backend, &normed)?, rows_of(backend, &residual)?].concat())
        }));
    }
    for bias in [false, true] {
        let name = format!("layer_norm of each head, [5, 4 x 40], bias {bias}");
        cases.push(Case::new(name, tolerance, move |backend| {
            let x = random_tensor(backend, 5, 200, 12)?.columns(20, 160)?;
            let (weight, shift) = (random_tensor(backend, 4, 40, 13)?, random_tensor(backend, 4, 40, 14)?);
            rows_of(backend, &backend.layer_norm(&x, &weight, bias.then_some(&shift), eps)?)
        }));
    }
    cases.push(Case::new("rms_norm of each head, [5, 4 x 40]".into(), tolerance, move |backend| {
        let x = random_tensor(backend, 5, 200, 12)?.columns(20, 160)?;
        rows_of(backend, &backend.rms_norm(&x, &random_tensor(backend, 1, 40, 13)?, eps)?)
    }));
}
