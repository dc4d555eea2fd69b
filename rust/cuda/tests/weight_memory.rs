//! Weights lie side by side in large pieces of memory once it is known how large they are in all.
//!
//! The device is the simulator, whose memory nobody else takes: one test alone.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use rustllm_cuda::{CudaBackend, CudaOptions};
use rustllm_ops::conformance::rows_of;
use rustllm_ops::{Backend, DType, HostMatrix, Weight, WeightFormat};

const MIB: u64 = 1 << 20;

fn free(backend: &CudaBackend) -> u64 {
    backend.device_memory().unwrap().expect("memory of its own").free
}

/// A weight whose rows begin with their numbers, `first` on.
fn numbered(backend: &CudaBackend, first: usize, rows: usize, cols: usize) -> Weight {
    let values = (0..rows * cols).map(|i| (first + i / cols) as f32 + (i % cols) as f32 / 512.0);
    let bytes: Vec<u8> = values.flat_map(f32::to_le_bytes).collect();
    let matrix = HostMatrix::new(DType::F32, rows, cols, &bytes).unwrap();
    backend.load_weight(&[matrix], WeightFormat::from(DType::F32)).unwrap()
}

fn first_column(backend: &CudaBackend, table: &Weight, row: u32) -> f32 {
    let ids = backend.indices(vec![row]).unwrap();
    rows_of(backend, &backend.embedding(&ids, table).unwrap()).unwrap()[0][0]
}

#[test]
fn weights_share_what_was_planned_for_them() {
    if rustllm_cuda_simulator::on_gpu() {
        return;
    }
    rustllm_cuda_simulator::load();
    let backend = CudaBackend::new(CudaOptions::default()).unwrap();
    // Results' memory, and a weight without a plan: it takes its own bytes.
    let alone = numbered(&backend, 7, 3, 100);
    assert_eq!(first_column(&backend, &alone, 2), 9.0);
    let before = free(&backend);
    drop(alone);
    assert_eq!(free(&backend) - before, 3 * 100 * 4);

    // Twenty weights of 1 MiB less a few bytes are in one piece of what was planned; what exceeds it, in another.
    let before = free(&backend);
    backend.plan_weights(20 * MIB);
    let mut weights: Vec<Weight> = (0..20).map(|i| numbered(&backend, 1000 * i, 1023, 256)).collect();
    assert_eq!(before - free(&backend), 20 * MIB);
    weights.extend((20..23).map(|i| numbered(&backend, 1000 * i, 1023, 256)));
    assert_eq!(before - free(&backend), 36 * MIB);
    for (i, weight) in weights.iter().enumerate() {
        assert_eq!(first_column(&backend, weight, 0), (1000 * i) as f32);
        assert_eq!(first_column(&backend, weight, 1022), (1000 * i + 1022) as f32);
    }

    // Pieces live as long as any of their parts.
    let last = weights.pop();
    weights.truncate(1);
    assert_eq!(before - free(&backend), 36 * MIB);
    drop(weights);
    assert_eq!(before - free(&backend), 16 * MIB);
    drop(last);
    assert_eq!(before, free(&backend));
}
