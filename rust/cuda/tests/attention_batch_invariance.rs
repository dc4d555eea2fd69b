//! A row's result depends on that row (for attention: its sequence) alone, bit for bit, whatever stands beside it.
//!
//! The device is the simulator; with `RUSTLLM_TEST_GPU=1` it is the machine's GPU.

mod support;

use rustllm_cuda_simulator as simulator;
use rustllm_ops::conformance::{AttentionCase, attention_table, bits, encoder_table};
use rustllm_ops::{AttentionParams, KvCacheDType, ReferenceBackend};
use support::backend;

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

#[test]
fn attention_does_not_depend_on_chunks_or_blocks() {
    let backend = backend();
    for case in attention_cases() {
        // Past the first boundary of what a softmax is taken over at once, where the table's own sequences are.
        let longest = case.seqs.iter().map(|(cached, new)| cached + new).max().unwrap();
        let len: usize = if longest > 200 { 300 } else { 90 };
        let blocks = len.div_ceil(case.block_size) as u32;
        let (forward, backward): (Vec<u32>, Vec<u32>) = ((0..blocks).collect(), (0..blocks).rev().collect());
        let run = |chunks: &[usize], table: &[u32]| bits(case.in_chunks(&backend, chunks, table).unwrap());
        // Single rows and a few come from the kernel of decode steps, the others from that of prefills.
        let whole = run(&[len], &forward);
        let chunks = if len == 300 { vec![255, 1, 1, 2, 17, 24] } else { vec![1, 15, 1, 1, 30, 3, 39] };
        assert!(whole == run(&chunks, &backward), "{case:?}");
    }
}

/// How much of it a block may take decides whether a prefill of wide heads has its own kernel, or is done as decode steps are.
#[test]
fn attention_does_not_depend_on_the_devices_shared_memory() {
    if simulator::on_gpu() {
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
        for seq in 0..case.seqs.len() {
            let (rows, alone) = case.alone(seq);
            let alone = bits(alone.outputs(&backend).unwrap());
            assert!(alone[seq..seq + rows.len()] == together[rows], "sequence {seq}, {case:?}");
        }
    }
}

/// One long sequence among short ones: its splits are shared by more blocks than its own, several splits to a block where others
/// are long too.
#[test]
fn a_long_sequence_shares_its_splits() {
    let (backend, reference) = (backend(), ReferenceBackend);
    let shape = AttentionParams::new(8, 4, 16);
    let windowed = AttentionParams { sliding_window: Some(1500), ..shape.clone() };
    for (dtype, shape) in [(KvCacheDType::BF16, &shape), (KvCacheDType::F32, &shape), (KvCacheDType::Int8, &windowed)] {
        let seqs = vec![(3, 1), (2900, 1), (0, 2), (700, 1), (1300, 2), (20, 1)];
        let case = AttentionCase { seqs, shape: shape.clone(), alibi: false, sinks: true, block_size: 16, dtype };
        let together = case.outputs(&backend).unwrap();
        for (got, want) in together.concat().iter().zip(case.outputs(&reference).unwrap().concat()) {
            // As the conformance table asks of attention.
            assert!((got - want).abs() <= 5e-6 * want.abs().max(1.0), "{dtype}: {got}, {want}");
        }
        let together = bits(together);
        for seq in [1, 4] {
            let (rows, alone) = case.alone(seq);
            let alone = bits(alone.outputs(&backend).unwrap());
            assert!(alone[seq..seq + rows.len()] == together[rows], "{dtype}, sequence {seq}");
        }
    }
}

#[test]
fn encoder_attention_of_a_sequence_does_not_depend_on_the_batch() {
    let backend = backend();
    for case in encoder_table() {
        let together = bits(case.outputs(&backend).unwrap());
        for seq in 0..case.seqs.len() {
            let (rows, alone) = case.alone(seq);
            assert!(bits(alone.outputs(&backend).unwrap()) == together[rows], "sequence {seq}, {case:?}");
        }
    }
}
