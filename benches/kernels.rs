//! The CPU kernels next to the machine's limits, as measured in the same run.
//!
//! `cargo bench --bench kernels` prints, per shape, bytes a second where weights or the cache are the limit (few rows), and
//! operations a second where arithmetic is (many rows). The first lines are the limits: peaks of arithmetic, read bandwidth.

mod weights;

use std::hint::black_box;

use criterion::{
    BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use rustllm::cpu::CpuBackend;
use rustllm::ops::conformance::{random_tensor, random_weight};
use rustllm::ops::{
    AttentionMetadata, AttentionParams, Backend, DType, GroupMetadata, Indices, KvCache, KvCacheDType, KvCacheGroup,
    KvCacheSpec, LmHeadParams, Result, Tensor, Weight, WeightFormat,
};
use weights::{WEIGHT_BYTES, backend, weight_bytes, weights};

/// Tokens of a cache block: the engine's default.
const BLOCK_SIZE: usize = 16;

fn limits(_: &mut Criterion) {
    let backend = backend();
    let flops = backend.measure_peak_flops().expect("the pool works");
    let int8 = backend.measure_peak_int8_ops().expect("the pool works");
    let bandwidth = backend.measure_read_bandwidth(WEIGHT_BYTES).expect("256 MiB of memory");
    println!("{} kernels on {} threads", backend.isa(), backend.num_threads());
    println!("limit: {:.0} GFLOP/s float32, {:.0} GOP/s int8", flops / 1e9, int8 / 1e9);
    println!("limit: {:.2} GiB/s read\n", bandwidth / f64::from(1 << 30));
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

/// The output projection of a vocabulary of 151936: with all logits written and then read for the largest, and without.
fn lm_head(criterion: &mut Criterion) {
    let backend = backend();
    let (hidden_size, vocab_size) = (896, 151_936);
    for format in [WeightFormat::Dense(DType::BF16), WeightFormat::Int8] {
        let weight = random_weight(&backend, vocab_size, hidden_size, format, 1).expect("memory");
        let params = LmHeadParams { weight, bias: None, multiplier: 1.0, soft_cap: None };
        let mut group = criterion.benchmark_group(format!("lm_head/{format}/{hidden_size}x{vocab_size}"));
        for rows in [1, 16, 64] {
            let hidden = random_tensor(&backend, rows, hidden_size, 2).expect("memory");
            let bytes = weight_bytes(vocab_size, hidden_size, format) as u64;
            let operations = (2 * rows * hidden_size * vocab_size) as u64;
            group.throughput(if rows == 1 { Throughput::Bytes(bytes) } else { Throughput::Elements(operations) });
            for (name, num_logits) in [("logits, then argmax", rows), ("argmax", 0)] {
                group.bench_function(BenchmarkId::new(name, rows), |bencher| {
                    bencher.iter(|| {
                        let made = backend.lm_head(&hidden, &params, num_logits).expect("the op works");
                        let written = (num_logits > 0).then(|| backend.argmax(&made.logits).expect("the op works"));
                        black_box((made, written))
                    });
                });
            }
        }
        group.finish();
    }
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
fn layers(num_layers: usize) -> Vec<KvCacheGroup> {
    KvCacheGroup::cut(&vec![None; num_layers])
}

/// A cache of as many layers as it takes to be larger than the processor's caches, filled.
fn filled_cache(backend: &CpuBackend, spec: &KvCacheSpec, num_seqs: usize, context: usize) -> Result<KvCache> {
    let layer_bytes = backend.kv_cache_block_bytes(spec) * spec.num_blocks;
    let spec = KvCacheSpec { groups: layers(WEIGHT_BYTES.div_ceil(layer_bytes)), ..spec.clone() };
    let cache = backend.alloc_kv_cache(&spec)?;
    let kv = random_tensor(backend, num_seqs * context, spec.num_kv_heads * spec.head_dim, 2)?;
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
                    groups: layers(1),
                    num_kv_heads,
                    head_dim,
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
    targets = limits, linear, lm_head, attention
}
criterion_main!(benches);
