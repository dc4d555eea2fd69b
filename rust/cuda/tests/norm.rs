//! A norm's bits depend on its row alone: not on where the row begins, nor on which op makes it.

mod support;

use rustllm_ops::conformance::{bits, random_tensor, rows_of};
use rustllm_ops::{Backend, ReferenceBackend, Result, Tensor};
use support::backend;

const EPS: f32 = 1e-5;

/// Rows of `cols` columns that begin `offset` numbers into wider ones.
fn rows_from(backend: &dyn Backend, offset: usize, rows: usize, cols: usize, seed: u64) -> Result<Tensor> {
    let values: Vec<Vec<f32>> = rows_of(backend, &random_tensor(backend, rows, cols, seed)?)?;
    let spaced: Vec<f32> = values.iter().flat_map(|row| [&vec![0.0; offset][..], row].concat()).collect();
    backend.tensor(&spaced, rows, offset + cols)?.columns(offset, cols)
}

/// The results of all norms over whole rows.
fn norms(backend: &dyn Backend, offset: usize, rows: usize, cols: usize) -> Result<Vec<Vec<f32>>> {
    let x = rows_from(backend, offset, rows, cols, 6)?;
    let residual = || rows_from(backend, offset, rows, cols, 8);
    let (weight, bias) = (random_tensor(backend, 1, cols, 7)?, random_tensor(backend, 1, cols, 9)?);
    let (mut first, mut second) = (residual()?, residual()?);
    let results = [
        backend.rms_norm(&x, &weight, EPS)?,
        backend.layer_norm(&x, &weight, Some(&bias), EPS)?,
        backend.add_rms_norm(&x, &mut first, &weight, EPS)?,
        backend.add_layer_norm(&x, &mut second, &weight, Some(&bias), EPS)?,
        backend.rms_norm(&first, &weight, EPS)?,
        backend.layer_norm(&second, &weight, Some(&bias), EPS)?,
    ];
    let rows: Result<Vec<_>> = results.iter().chain([&first, &second]).map(|result| rows_of(backend, result)).collect();
    Ok(rows?.concat())
}

/// Widths of one round of a block's threads, of two, and of more than a block keeps in registers.
#[test]
fn a_norm_does_not_depend_on_where_its_rows_begin() {
    let backend = backend();
    for cols in [4, 40, 252, 1000, 2052, 8192, 8200, 16_500] {
        let aligned = norms(&backend, 0, 2, cols).unwrap();
        for offset in [1, 2, 4] {
            assert!(bits(norms(&backend, offset, 2, cols).unwrap()) == bits(aligned.clone()), "{cols} from {offset}");
        }
        // After the addition, a row is normed as any other.
        let (added, alone) = (&aligned[4..8], &aligned[8..12]);
        assert!(added == alone, "{cols}");
    }
}

#[test]
fn wide_norms_agree_with_the_reference() {
    let (backend, reference) = (backend(), ReferenceBackend);
    for cols in [8200, 16_500] {
        let (got, want) = (norms(&backend, 0, 1, cols).unwrap(), norms(&reference, 0, 1, cols).unwrap());
        for (got, want) in got.concat().iter().zip(want.concat()) {
            assert!((got - want).abs() <= 4e-6 * want.abs().max(1.0), "{cols}: {got}, {want}");
        }
    }
}
