//! Weights for the benchmarks of linear layers: more of them than caches hold, so that they are read from memory, as in a model.

use rustllm::cpu::{CpuBackend, CpuOptions};
use rustllm::ops::conformance::random_weight;
use rustllm::ops::{Result, Weight, WeightFormat};

/// More than caches hold.
pub const WEIGHT_BYTES: usize = 256 << 20;

/// The backend with the best instruction set, and all threads.
pub fn backend() -> CpuBackend {
    CpuBackend::new(CpuOptions::default()).expect("RUSTLLM_ISA names an instruction set of this machine")
}

/// Bytes of a weight, scales included.
pub fn weight_bytes(rows: usize, cols: usize, format: WeightFormat) -> usize {
    match format {
        WeightFormat::Dense(dtype) => rows * cols * dtype.size(),
        WeightFormat::Int8 => rows * (cols + size_of::<f32>()),
        WeightFormat::Int4 { group_size, .. } => rows * cols.div_ceil(group_size) * (group_size / 2 + 2),
    }
}

/// Enough copies of a weight that a round of them does not stay in the caches.
pub fn weights(backend: &CpuBackend, rows: usize, cols: usize, format: WeightFormat) -> Result<Vec<Weight>> {
    let copies = (WEIGHT_BYTES / weight_bytes(rows, cols, format)).max(1);
    (0..copies).map(|seed| random_weight(backend, rows, cols, format, seed as u64)).collect()
}
