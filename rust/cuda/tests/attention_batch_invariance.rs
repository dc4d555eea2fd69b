//! A row's result depends on that row (for attention: its sequence) alone, bit for bit, whatever stands beside it.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

use rustllm_cuda::{CudaBackend, CudaOptions};
use rustllm_cuda_simulator as simulator;
use rustllm_ops::conformance::{AttentionCase, EncoderCase, attention_table, encoder_table, numbers, rows_of};
use rustllm_ops::{
    AttentionMetadata, AttentionParams, Backend, GroupMetadata, KvCacheDType, KvCacheGroup, KvCacheKind, KvCacheSpec,
    Result,
};

fn backend() -> CudaBackend {
    if std::env::var_os("RUSTLLM_TEST_GPU").is_none() {
        simulator::load();
    }
    CudaBackend::new(CudaOptions::default()).expect("a device")
}

fn bits(rows: Vec<Vec<f32>>) -> Vec<Vec<u32>> {
    rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

/// Cases of one KV head, since what a head computes does not depend on the others: of every shape two of the four dtypes.
fn attention_cases() -> impl Iterator<Item = AttentionCase> {
    let dtypes = KvCacheDType::ALL.len();
    let chosen =
        attention_table().into_iter().enumerate().filter(move |(row, _)| (row / dtypes + row).is_multiple_of(2));
    chosen.map(|(_, mut case)| {
        let AttentionParams { num_heads, num_kv_heads, .. } = case.shape;
        (case.shape.num_heads, case.shape.num_kv_heads) = (num_heads / num_kv_heads, 1);
        case
    })
}

/// Writes and attends to a sequence of `len` tokens, chunk after chunk, in blocks dealt by `table`.
fn chunked(
    backend: &CudaBackend,
    case: &AttentionCase,
    len: usize,
    chunks: &[usize],
    table: &[u32],
) -> Result<Vec<Vec<u32>>> {
    let AttentionParams { num_heads, num_kv_heads, head_dim, .. } = case.shape;
    let spec = KvCacheSpec {
        groups: KvCacheGroup::cut(&[KvCacheKind { sliding_window: case.shape.sliding_window, num_kv_heads, head_dim }]),
        block_size: case.block_size,
        num_blocks: 1 + *table.iter().max().expect("a block") as usize,
        dtype: case.dtype,
    };
    let cache = backend.alloc_kv_cache(&spec)?;
    let (kv, q) = (num_kv_heads * head_dim, num_heads * head_dim);
    let (keys, values, queries) = (numbers(len * kv, 1), numbers(len * kv, 2), numbers(len * q, 3));
    let params = case.params(backend)?;
    let mut rows = Vec::new();
    let mut start = 0;
    for chunk in chunks {
        let end = start + chunk;
        let slot = |p: usize| table[p / case.block_size] * case.block_size as u32 + (p % case.block_size) as u32;
        let window = case.shape.sliding_window.unwrap_or(usize::MAX);
        let mut seen = table.to_vec();
        seen[..(start + 1).saturating_sub(window) / case.block_size].fill(u32::MAX);
        let metadata = AttentionMetadata {
            positions: backend.indices((start as u32..end as u32).collect())?,
            query_start_loc: backend.indices(vec![0, *chunk as u32])?,
            seq_lens: backend.indices(vec![end as u32])?,
            groups: vec![GroupMetadata {
                slot_mapping: backend.indices((start..end).map(slot).collect())?,
                block_table: backend.indices(seen)?,
                max_blocks_per_seq: table.len(),
            }],
        };
        let part = |values: &[f32], width: usize| backend.tensor(&values[start * width..end * width], *chunk, width);
        backend.write_kv(&part(&keys, kv)?, &part(&values, kv)?, cache.layer(0), &metadata)?;
        rows.extend(rows_of(backend, &backend.attention(&part(&queries, q)?, cache.layer(0), &metadata, &params)?)?);
        start = end;
    }
    Ok(bits(rows))
}

#[test]
fn attention_does_not_depend_on_chunks_or_blocks() {
    let backend = backend();
    for case in attention_cases() {
        // Past the first boundary of what a softmax is taken over at once, where the table's own sequences are.
        let longest = case.seqs.iter().map(|(cached, new)| cached + new).max().unwrap();
        let len: usize = if longest > 200 { 300 } else { 90 };
        let blocks = len.div_ceil(case.block_size) as u32;
        let (forward, backward): (Vec<u32>, Vec<u32>) = ((0..blocks).collect(), (0..blocks).rev().collect());
        let run = |chunks: &[usize], table: &[u32]| chunked(&backend, &case, len, chunks, table).unwrap();
        // Single rows and a few come from the kernel of decode steps, the others from that of prefills.
        let whole = run(&[len], &forward);
        let chunks = if len == 300 { vec![255, 1, 1, 2, 17, 24] } else { vec![1, 15, 1, 1, 30, 3, 39] };
        assert!(whole == run(&chunks, &backward), "{case:?}");
    }
}

/// How much of it a block may take decides whether a prefill of wide heads has its own kernel, or is done as decode steps are.
#[test]
fn attention_does_not_depend_on_the_devices_shared_memory() {
    if std::env::var_os("RUSTLLM_TEST_GPU").is_some() {
        return;
    }
    let with_shared_bytes = |bytes| {
        simulator::load();
        simulator::set_max_shared_bytes(bytes);
        backend()
    };
    // As on sm_89, sm_80 and sm_90.
    let backends = [101_376, 166_912, 232_448].map(|bytes| (bytes, with_shared_bytes(bytes)));
    for dtype in [KvCacheDType::F16, KvCacheDType::BF16, KvCacheDType::Int8] {
        let shape = AttentionParams { sliding_window: Some(290), ..AttentionParams::new(3, 1, 200) };
        let seqs = vec![(260, 40), (0, 1), (3, 70)];
        let case = AttentionCase { seqs, shape, alibi: true, sinks: true, block_size: 16, dtype };
        let [few, some, most] = backends.each_ref().map(|(bytes, backend)| {
            simulator::set_max_shared_bytes(*bytes);
            bits(case.outputs(backend).unwrap())
        });
        assert!(few == some && some == most, "{dtype}");
    }
}

#[test]
fn attention_of_a_sequence_does_not_depend_on_the_batch() {
    let backend = backend();
    for case in attention_cases() {
        let together = bits(case.outputs(&backend).unwrap());
        // The same sequences, each in a batch where the others have one token.
        let mut row = 0;
        for (seq, (cached, rows)) in case.seqs.iter().enumerate() {
            let others = (0..case.seqs.len()).map(|other| if other == seq { (*cached, *rows) } else { (0, 1) });
            let alone = AttentionCase { seqs: others.collect(), ..case.clone() };
            let alone = bits(alone.outputs(&backend).unwrap());
            assert!(alone[seq..seq + rows] == together[row..row + rows], "sequence {seq}, {case:?}");
            row += rows;
        }
    }
}

#[test]
fn encoder_attention_of_a_sequence_does_not_depend_on_the_batch() {
    let backend = backend();
    for case in encoder_table() {
        let together = bits(case.outputs(&backend).unwrap());
        let mut row = 0;
        for (seq, rows) in case.seqs.iter().enumerate() {
            let only = (0..case.seqs.len()).map(|other| if other == seq { *rows } else { 0 });
            let alone = EncoderCase { seqs: only.collect(), ..case.clone() };
            let alone = bits(alone.outputs(&backend).unwrap());
            assert!(alone == together[row..row + rows], "sequence {seq}, {case:?}");
            row += rows;
        }
    }
}
