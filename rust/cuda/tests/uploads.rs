//! Values on their way to the device: any number of them, sent faster than they are used.

mod support;

use rustllm_ops::Backend;
use rustllm_ops::conformance::{numbers, random_tensor, rows_of};
use support::backend;

/// Around the sizes of a slot of page-locked memory, and of all of them.
#[test]
fn values_arrive_however_many() {
    let backend = backend();
    for n in [0, 1, 65_535, 65_536, 65_537, 1_048_575, 1_200_000] {
        let x = random_tensor(&backend, 1, n, 3).unwrap();
        assert!(rows_of(&backend, &x).unwrap()[0] == numbers(n, 3), "{n} numbers");
    }
}

/// More tensors than slots before any of them is looked at.
#[test]
fn a_slot_is_not_filled_before_it_was_read() {
    let backend = backend();
    let tensors: Vec<_> = (0..50).map(|seed| random_tensor(&backend, 3, 7, seed).unwrap()).collect();
    let mut sum = backend.tensor(&[0.0; 21], 3, 7).unwrap();
    for x in &tensors {
        backend.add_assign(&mut sum, x).unwrap();
    }
    for (x, seed) in tensors.iter().zip(0..) {
        assert!(rows_of(&backend, x).unwrap().concat() == numbers(21, seed), "tensor {seed}");
    }
    let mut want = vec![0.0f32; 21];
    (0..50).for_each(|seed| want.iter_mut().zip(numbers(21, seed)).for_each(|(sum, x)| *sum += x));
    assert!(rows_of(&backend, &sum).unwrap().concat() == want);
}
