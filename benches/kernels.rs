//! The CPU kernels next to the machine's limits, as measured in the same run.
//!
//! `cargo bench --bench kernels` prints, per shape, bytes a second where weights or the cache are the limit (few rows), and
//! operations a second where arithmetic is (many rows). The first lines are the limits: peaks of arithmetic, read bandwidth.

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use rustllm::cpu::{CpuBackend, CpuOptions};
use rustllm::ops::conformance::{random_tensor, random_weight};
use rustllm::ops::{
    AttentionMetadata, AttentionParams, Backend, DType, Indices, KvCacheSpec, Result, Tensor, Weight, WeightFormat,
};

/// More than caches hold: weights are read from memory, as in a model.
const WEIGHT_BYTES: usize = 256 << 20;

fn backend() -> CpuBackend {
    CpuBackend::new(CpuOptions::default()).expect("RUSTLLM_ISA names an instruction set of this machine")
}

fn limits(_: &mut Criterion) {
    let backend = backend();
    let flops = backend.measure_peak_flops().expect("the pool works");
    let int8 = backend.measure_peak_int8_ops().expect("the pool works");
    let bandwidth = backend.measure_read_bandwidth(WEIGHT_BYTES).expect("256 MiB of memory");
    println!("{} kernels on {} threads", backend.isa(), backend.num_threads());
    println!("limit: {:.0} GFLOP/s float32, {:.0} GOP/s int8", flops / 1e9, int8 / 1e9);
    println!("limit: {:.2} GiB/s read\n", bandwidth / f64::from(1 << 30));
}

/// Bytes of a weight, scales included.
fn weight_bytes(rows: usize, cols: usize, format: WeightFormat) -> usize {
    match format {
        WeightFormat::Dense(dtype) => rows * cols * dtype.size(),
        WeightFormat::Int8 => rows * (cols + size_of::<f32>()),
        WeightFormat::Int4 { group_size, .. } => rows * cols.div_ceil(group_size) * (group_size / 2 + 2),
    }
}

/// Enough copies of a weight that a round of them does not stay in the caches.
fn weights(backend: &CpuBackend, rows: usize, cols: usize, format: WeightFormat) -> Result<Vec<Weight>> {
    let copies = (WEIGHT_BYTES / weight_bytes(rows, cols, format)).max(1);
    (0..copies).map(|seed| random_weight(backend, rows, cols, format, seed as u64)).collect()
}

fn linear(criterion: &mut Criterion) {
    let backend = backend();
    let formats = [
        WeightFormat::Dense(DType::F32),
        WeightFormat::Dense(DType::BF16),
        WeightFormat::Int8,
        WeightFormat::Int4 { group_size: 32, symmetric: true },
    ];
    for (in_features, out_features) in [(896, 4864), (2048, 8192)] {
        for format in formats {
            let weights = weights(&backend, out_features, in_features, format).expect("256 MiB of memory");
            let mut group = criterion.benchmark_group(format!("linear/{format}/{in_features}x{out_features}"));
            for rows in [1, 16, 64, 512] {
                let x = random_tensor(&backend, rows, in_features, 1).expect("memory");
                let bytes = weight_bytes(out_features, in_features, format) as u64;
                let operations = (2 * rows * in_features * out_features) as u64;
                group.throughput(if rows == 1 { Throughput::Bytes(bytes) } else { Throughput::Elements(operations) });
                bench_linear(&mut group, &backend, rows, &x, &weights);
            }
            group.finish();
        }
    }
}

fn bench_linear(
    group: &mut BenchmarkGroup<'_, WallTime>,
    backend: &CpuBackend,
    rows: usize,
    x: &Tensor,
    weights: &[Weight],
) {
    let mut turn = weights.iter().cycle();
    group.bench_function(BenchmarkId::new("rows", rows), |bencher| {
        bencher.iter(|| black_box(backend.linear(x, turn.next().expect("a cycle"), None).expect("the op works")));
    });
}

/// One sequence of `context` tokens whose last `rows` are computed now.
fn one_sequence(context: usize, rows: usize, block_size: usize) -> AttentionMetadata {
    let range = |from: usize, to: usize| Indices::host((from as u32..to as u32).collect());
    AttentionMetadata {
        positions: range(context - rows, context),
        slot_mapping: range(context - rows, context),
        query_start_loc: Indices::host(vec![0, rows as u32]),
        seq_lens: Indices::host(vec![context as u32]),
        block_table: range(0, context / block_size),
        max_blocks_per_seq: context / block_size,
    }
}

fn attention(criterion: &mut Criterion) {
    let backend = backend();
    let block_size = 32;
    for (num_heads, num_kv_heads, head_dim) in [(14, 2, 64), (32, 8, 64)] {
        let params = AttentionParams { num_heads, num_kv_heads, head_dim, scale: 0.125, sliding_window: None };
        for dtype in [DType::BF16, DType::F32] {
            let name = format!("attention/{dtype}/{num_heads}-{num_kv_heads}x{head_dim}");
            let mut group = criterion.benchmark_group(name);
            for (label, context, rows) in [("decode", 2048, 1), ("prefill", 512, 512)] {
                let spec = KvCacheSpec {
                    num_layers: 1,
                    num_kv_heads,
                    head_dim,
                    block_size,
                    num_blocks: context / block_size,
                    dtype,
                };
                let cache = backend.alloc_kv_cache(&spec).expect("memory");
                let kv = random_tensor(&backend, context, num_kv_heads * head_dim, 2).expect("memory");
                let all = one_sequence(context, context, block_size);
                backend.write_kv(&kv, &kv, cache.layer(0), &all).expect("the op works");
                let q = random_tensor(&backend, rows, num_heads * head_dim, 3).expect("memory");
                let metadata = one_sequence(context, rows, block_size);
                let bytes = 2 * context * num_kv_heads * head_dim * dtype.size();
                // Scores and weighted values of a causal triangle, a multiply-add each.
                let operations = 2 * 2 * rows * (rows + 1) / 2 * num_heads * head_dim;
                let decode = Throughput::Bytes(bytes as u64);
                group.throughput(if rows == 1 { decode } else { Throughput::Elements(operations as u64) });
                group.bench_function(BenchmarkId::new(label, context), |bencher| {
                    bencher.iter(|| black_box(backend.attention(&q, cache.layer(0), &metadata, &params)));
                });
            }
            group.finish();
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(10);
    targets = limits, linear, attention
}
criterion_main!(benches);
