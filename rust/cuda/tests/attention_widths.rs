//! Attention over heads of widths that the tensor cores do not serve: row by row, in any dtype.

mod support;

use rustllm_ops::conformance::{AttentionCase, EncoderCase};
use rustllm_ops::{AttentionParams, KvCacheDType, ReferenceBackend};
use support::backend;

/// As close as the conformance table asks of attention.
fn assert_close(got: &[Vec<f32>], want: &[Vec<f32>], what: &str) {
    assert_eq!(got.len(), want.len(), "{what}");
    for (got, want) in got.iter().flatten().zip(want.iter().flatten()) {
        assert!((got - want).abs() <= 5e-6 * want.abs().max(1.0), "{what}: {got}, the reference has {want}");
    }
}

#[test]
fn attention() {
    let backend = backend();
    for (head_dim, sliding_window) in [(20, None), (300, Some(30)), (7, Some(270))] {
        for dtype in KvCacheDType::ALL {
            let shape = AttentionParams { sliding_window, ..AttentionParams::new(5, 1, head_dim) };
            let seqs = vec![(0, 3), (257, 1), (300, 2)];
            let case = AttentionCase { seqs, shape, alibi: true, sinks: true, block_size: 16, dtype };
            let want = case.outputs(&ReferenceBackend).unwrap();
            assert_close(&case.outputs(&backend).unwrap(), &want, &format!("{case:?}"));
        }
    }
}

#[test]
fn encoder_attention() {
    let backend = backend();
    for (head_dim, window, bias) in [(20, None, None), (136, Some(9), None), (7, None, Some(12))] {
        let case = EncoderCase { seqs: vec![3, 0, 40, 1], heads: (6, 2, head_dim), window, bias, distances: None };
        let want = case.outputs(&ReferenceBackend).unwrap();
        assert_close(&case.outputs(&backend).unwrap(), &want, &format!("{case:?}"));
    }
}
