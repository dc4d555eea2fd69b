//! A row of a linear layer's result depends on that row alone, bit for bit: skinny kernels, tiles and sums of parts add in
//! the same order, whatever stands beside it.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

mod support;

use rustllm_cuda::CudaBackend;
use rustllm_ops::conformance::{FORMATS, bits, numbers, random_tensor, random_weight, rows_of};
use rustllm_ops::{Activation, Backend, Result, Tensor};
use support::deterministic_backend;

const ROWS: usize = 130;

/// Runs an op on all rows, and on runs of them around the sizes of skinny blocks and of tiles: all bits must be equal.
fn check(name: &str, backend: &CudaBackend, cols: usize, op: impl Fn(&Tensor) -> Result<Tensor>) {
    let all = numbers(ROWS * cols, 99);
    let run = |first: usize, rows: usize| {
        let x = backend.tensor(&all[first * cols..(first + rows) * cols], rows, cols).expect("memory");
        bits(rows_of(backend, &op(&x).expect("the op works")).expect("rows"))
    };
    let together = run(0, ROWS);
    for (first, rows) in [(0, 1), (77, 1), (129, 1), (1, 2), (64, 8), (30, 9), (100, 16), (5, 17), (66, 64), (3, 65)] {
        assert!(run(first, rows) == together[first..first + rows], "{name}: {rows} rows from {first}");
    }
}

#[test]
fn linear() {
    let backend = deterministic_backend();
    for format in FORMATS {
        for (k, n) in [(1, 3), (515, 70), (1040, 33), (200, 260)] {
            let weight = random_weight(&backend, n, k, format, 1).expect("memory");
            let bias = random_tensor(&backend, 1, n, 2).expect("memory");
            check(&format!("linear {format} [{n}, {k}]"), &backend, k, |x| backend.linear(x, &weight, Some(&bias)));
        }
    }
}

#[test]
fn fused_linear() {
    let backend = deterministic_backend();
    for format in FORMATS {
        for (k, n) in [(515, 48), (130, 23)] {
            let weight = random_weight(&backend, 2 * n, k, format, 1).expect("memory");
            let bias = random_tensor(&backend, 1, 2 * n, 2).expect("memory");
            check(&format!("gated_linear {format} [2 x {n}, {k}]"), &backend, k, |x| {
                backend.gated_linear(x, &weight, Some(&bias), Activation::Silu)
            });
            check(&format!("activated_linear {format} [2 x {n}, {k}]"), &backend, k, |x| {
                backend.activated_linear(x, &weight, Some(&bias), Activation::Gelu)
            });
        }
    }
}
