//! A row's result depends on that row alone, bit for bit, whatever stands beside it.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

mod support;

use rustllm_cuda::CudaBackend;
use rustllm_ops::conformance::{MoeCase, bits, moe_table, numbers, rows_of};
use rustllm_ops::{Backend, ExpertGroups, GroupScore, Result, Routing, RoutingParams, Scoring, Tensor};
use support::deterministic_backend;

type Op<'a> = Box<dyn Fn(&Tensor, usize) -> Result<Tensor> + 'a>;

/// Runs an op on batches of several sizes and on some of their rows alone: all bits must be equal. The op is given the place
/// of its first row.
fn check(name: &str, backend: &CudaBackend, cols: usize, op: &Op<'_>) {
    const ROWS: usize = 20;
    let all = numbers(ROWS * cols, 99);
    let run = |first: usize, rows: usize| {
        let x = backend.tensor(&all[first * cols..(first + rows) * cols], rows, cols).expect("memory");
        bits(rows_of(backend, &op(&x, first).expect("the op works")).expect("rows"))
    };
    let alone: Vec<_> = (0..ROWS).flat_map(|row| run(row, 1)).collect();
    // Batches around the sizes of tiles.
    for rows in [2, 7, 9, 20] {
        let first = (ROWS - rows) / 2;
        assert!(run(first, rows) == alone[first..first + rows], "{name}: {rows} rows");
    }
}

#[test]
fn moe_does_not_depend_on_which_rows_share_an_expert() {
    let backend = deterministic_backend();
    for case in moe_table().iter().filter(|case| case.rows < 100) {
        let experts = case.load(&backend).expect("memory");
        let op = |x: &Tensor, first: usize| -> Result<Tensor> {
            let routing = case.routing(&backend, first, x.rows())?;
            backend.moe(x, &routing, &experts, case.activation)
        };
        check(&format!("{case:?}"), &backend, case.sizes.0, &(Box::new(op) as Op<'_>));
    }
}

#[test]
fn routing() {
    let backend = deterministic_backend();
    let groups = ExpertGroups { num_groups: 4, topk_group: 2, score: GroupScore::TwoBest };
    let params = RoutingParams {
        top_k: 6,
        scoring: Scoring::Softmax,
        groups: Some(groups),
        renormalize: true,
        scaling_factor: 2.5,
    };
    let op = |x: &Tensor, _| backend.route(x, None, &params).map(|routing| routing.weights);
    check("route", &backend, 64, &(Box::new(op) as Op<'_>));
}

#[test]
fn experts_there_are_not_spoil_their_row_alone() {
    let backend = deterministic_backend();
    let case = MoeCase { rows: 4, ..moe_table()[0] };
    let experts = case.load(&backend).expect("memory");
    let x = backend.tensor(&numbers(4 * case.sizes.0, 7), 4, case.sizes.0).expect("memory");
    let run = |chosen: [f32; 8]| {
        let weights = backend.tensor(&numbers(8, 8), 4, 2).expect("memory");
        let routing = Routing { experts: backend.tensor(&chosen, 4, 2).expect("memory"), weights };
        rows_of(&backend, &backend.moe(&x, &routing, &experts, case.activation).expect("the op works")).expect("rows")
    };
    let good = run([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    let bad = run([0.0, f32::NAN, 2.0, 3.0, 8.0, 5.0, -1.0, 7.0]);
    assert_eq!(good[1], bad[1]);
    for row in [0, 2, 3] {
        assert!(bad[row].iter().all(|value| value.is_nan()), "row {row}: {:?}", &bad[row][..4]);
    }
}
