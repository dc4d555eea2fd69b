//! Heads that are turned and written in one launch, beside the same in two: the same numbers, to the bit, in every dtype.

mod support;

use rustllm_ops::conformance::{bits, cached_heads_table};
use support::backend;

#[test]
fn at_once_is_one_after_the_other() {
    let backend = backend();
    for heads in cached_heads_table() {
        let rows = |apart| bits(heads.outputs(&backend, false, apart).unwrap());
        assert!(rows(false) == rows(true), "{heads:?}");
    }
}
