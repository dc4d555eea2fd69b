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
    AttentionMetadata, AttentionParams, Backend, DType, GroupMetadata, Indices, KvCache, KvCacheDType, KvCacheGroup,
    KvCacheKind, KvCacheSpec, Result, Tensor, Weight, WeightFormat,
};

/// More than caches hold: weights are read from memory, as in a model.
const WEIGHT_BYTES: usize = 256 << 20;

/// Tokens of a cache block: the engine's default.
const BLOCK_SIZE: usize = 16;

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

/// `num_seqs` sequences of `context` tokens each, the last `rows` of which are computed now. Blocks are dealt out of order, as
/// they are once sequences have come and gone.
fn batch(num_seqs: usize, context: usize, rows: usize) -> AttentionMetadata {
    let max_blocks_per_seq = context / BLOCK_SIZE;
    let num_blocks = num_seqs * max_blocks_per_seq;
    assert!(num_blocks.is_power_of_two(), "an odd stride reaches every block of a power of two");
    let block_table: Vec<u32> = (0..num_blocks).map(|i| (i * 37 % num_blocks) as u32).collect();
    let tokens = || (0..num_seqs).flat_map(|seq| (context - rows..context).map(move |position| (seq, position)));
    let slot = |(seq, position): (usize, usize)| {
        block_table[seq * max_blocks_per_seq + position / BLOCK_SIZE] * BLOCK_SIZE as u32
            + (position % BLOCK_SIZE) as u32
    };
    AttentionMetadata {
        positions: Indices::host(tokens().map(|(_, position)| position as u32).collect()),
        query_start_loc: Indices::host((0..=num_seqs).map(|seq| (seq * rows) as u32).collect()),
        seq_lens: Indices::host(vec![context as u32; num_seqs]),
        groups: vec![GroupMetadata {
            slot_mapping: Indices::host(tokens().map(slot).collect()),
            block_table: Indices::host(block_table),
            max_blocks_per_seq,
        }],
    }
}

/// `num_layers` layers of full attention.
fn layers(num_layers: usize, num_kv_heads: usize, head_dim: usize) -> Vec<KvCacheGroup> {
    KvCacheGroup::cut(&vec![KvCacheKind { sliding_window: None, num_kv_heads, head_dim }; num_layers])
}

/// A cache of as many layers as it takes to be larger than the processor's caches, filled.
fn filled_cache(backend: &CpuBackend, spec: &KvCacheSpec, num_seqs: usize, context: usize) -> Result<KvCache> {
    let layer_bytes = backend.kv_cache_block_bytes(spec) * spec.num_blocks;
    let KvCacheKind { num_kv_heads, head_dim, .. } = spec.groups[0].kind;
    let groups = layers(WEIGHT_BYTES.div_ceil(layer_bytes), num_kv_heads, head_dim);
    let spec = KvCacheSpec { groups, ..spec.clone() };
    let cache = backend.alloc_kv_cache(&spec)?;
    let kv = random_tensor(backend, num_seqs * context, num_kv_heads * head_dim, 2)?;
    let all = batch(num_seqs, context, context);
    for layer in 0..spec.num_layers() {
        backend.write_kv(&kv, &kv, cache.layer(layer), &all)?;
    }
    Ok(cache)
}

fn attention(criterion: &mut Criterion) {
    let backend = backend();
    for (num_heads, num_kv_heads, head_dim) in [(14, 2, 64), (32, 8, 64)] {
        let params = AttentionParams::new(num_heads, num_kv_heads, head_dim);
        for dtype in [KvCacheDType::BF16, KvCacheDType::Int8] {
            let mut group =
                criterion.benchmark_group(format!("attention/{dtype}/{num_heads}-{num_kv_heads}x{head_dim}"));
            for (num_seqs, context, rows) in
                [(1, 1024, 1), (1, 8192, 1), (16, 1024, 1), (16, 8192, 1), (1, 512, 512), (1, 2048, 2048)]
            {
                let num_blocks = num_seqs * context / BLOCK_SIZE;
                let spec = KvCacheSpec {
                    groups: layers(1, num_kv_heads, head_dim),
                    block_size: BLOCK_SIZE,
                    num_blocks,
                    dtype,
                };
                let cache = filled_cache(&backend, &spec, num_seqs, context).expect("memory");
                let q = random_tensor(&backend, num_seqs * rows, num_heads * head_dim, 3).expect("memory");
                let metadata = batch(num_seqs, context, rows);
                let bytes = num_seqs * context * backend.kv_cache_block_bytes(&spec) / BLOCK_SIZE;
                // Scores and weighted values of a causal triangle, a multiply-add each.
                let operations = 2 * 2 * rows * (rows + 1) / 2 * num_heads * head_dim;
                let decode = Throughput::Bytes(bytes as u64);
                group.throughput(if rows == 1 { decode } else { Throughput::Elements(operations as u64) });
                let label = if rows == 1 { format!("decode of {num_seqs}") } else { "prefill".into() };
                let mut layers = (0..cache.spec().num_layers()).cycle();
                group.bench_function(BenchmarkId::new(label, context), |bencher| {
                    bencher.iter(|| {
                        let layer = cache.layer(layers.next().expect("a cycle"));
                        black_box(backend.attention(&q, layer, &metadata, &params).expect("the op works"))
                    });
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
