//! The CPU backend against the reference, for every instruction set of this machine and several numbers of threads.

use rustllm_cpu::{CpuBackend, CpuOptions, Isa, available_isas};
use rustllm_ops::conformance::{Case, attention_table, cases, encoder_table, moe_table, random_tensor};
use rustllm_ops::{
    AttentionParams, Backend, DisentangledParams, Error, KvCacheDType, KvCacheGroup, KvCacheKind, KvCacheSpec,
};

fn backend(isa: Isa, num_threads: usize) -> CpuBackend {
    CpuBackend::new(CpuOptions { num_threads: Some(num_threads), isa: Some(isa) }).expect("an available set")
}

fn bits(case: &Case, backend: &CpuBackend) -> Vec<Vec<u32>> {
    let rows = case.outputs(backend).expect("the op works");
    rows.iter().map(|row| row.iter().map(|value| value.to_bits()).collect()).collect()
}

#[test]
fn every_op_agrees_with_the_reference() {
    let backend = backend(*available_isas().last().unwrap(), 2);
    let failures: Vec<String> =
        cases().iter().filter_map(|case| case.check(&backend).err()).map(|error| error.to_string()).collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn instruction_sets_and_threads_agree_bit_for_bit() {
    let want = backend(Isa::Scalar, 1);
    let others: Vec<CpuBackend> =
        available_isas().into_iter().flat_map(|isa| [1, 3].map(|num_threads| backend(isa, num_threads))).collect();
    for case in cases() {
        let want = bits(&case, &want);
        for other in &others {
            // The one exception to equal bits is held to the reference instead.
            if other.isa() == Isa::Avx512Bf16 && case.name().contains("linear bfloat16") {
                case.check(other).unwrap();
            } else {
                let same = bits(&case, other) == want;
                assert!(same, "{} on {} with {} threads", case.name(), other.isa(), other.num_threads());
            }
        }
    }
}

#[test]
fn refuses_blocks_that_do_not_hold_whole_vectors() {
    let backend = backend(Isa::Scalar, 1);
    let kind = KvCacheKind { sliding_window: None, num_kv_heads: 1, head_dim: 8 };
    let spec = |block_size| KvCacheSpec {
        groups: KvCacheGroup::cut(&[kind]),
        block_size,
        num_blocks: 2,
        dtype: KvCacheDType::F32,
    };
    for block_size in [0, 1, 8, 24] {
        let message = backend.alloc_kv_cache(&spec(block_size)).unwrap_err().to_string();
        assert!(message.contains(&format!("must be a multiple of 16 on the CPU, got {block_size}")), "{message}");
    }
    let absurd = KvCacheSpec { num_blocks: usize::MAX / 64, ..spec(16) };
    assert!(matches!(backend.alloc_kv_cache(&absurd), Err(Error::OutOfMemory { .. })));
}

#[test]
fn refuses_rules_for_scores_that_do_not_fit() {
    let backend = backend(Isa::Scalar, 1);
    let case = attention_table().into_iter().find(|case| case.shape.num_heads == 4).expect("one of four heads");
    let message = |change: &dyn Fn(&mut AttentionParams)| {
        let mut case = case.clone();
        change(&mut case.shape);
        case.outputs(&backend).unwrap_err().to_string()
    };
    let message_of_three = message(&|shape| shape.alibi_slopes = Some(backend.tensor(&[0.5; 3], 1, 3).unwrap()));
    assert!(message_of_three.contains("alibi_slopes is [1, 3], expected [1, 4]"), "{message_of_three}");
    let message_of_cap = message(&|shape| shape.soft_cap = Some(0.0));
    assert!(message_of_cap.contains("soft_cap must be above 0"), "{message_of_cap}");
}

#[test]
fn refuses_distances_that_do_not_fit() {
    let backend = backend(Isa::Scalar, 1);
    // Three heads of eight elements, nine buckets.
    let case = encoder_table().into_iter().find(|case| case.distances.is_some()).expect("one of distances");
    let message = |change: &dyn Fn(&mut DisentangledParams)| {
        let mut params = case.params(&backend).unwrap();
        change(params.disentangled.as_mut().expect("the case has some"));
        let (x, starts) = (random_tensor(&backend, 2, 24, 1).unwrap(), backend.indices(vec![0, 2]).unwrap());
        backend.encoder_attention(&x, &x, &x, &starts, &params).unwrap_err().to_string()
    };
    let buckets = |buckets: &[u32]| backend.indices(buckets.to_vec()).unwrap();
    let narrow = message(&|distances| distances.keys = Some(random_tensor(&backend, 9, 20, 1).unwrap()));
    assert!(narrow.contains("keys of distances of 20 columns for 3 heads of 8"), "{narrow}");
    let even = message(&|distances| distances.buckets = buckets(&[0, 1]));
    assert!(even.contains("2 distances have no middle"), "{even}");
    let past = message(&|distances| distances.buckets = buckets(&[0, 9, 1]));
    assert!(past.contains("bucket 9 is not below 9"), "{past}");
}

#[test]
fn refuses_tensors_of_another_backend() {
    let (one, other) = (backend(Isa::Scalar, 1), backend(Isa::Scalar, 1));
    let x = one.tensor(&[1.0, 2.0], 1, 2).unwrap();
    assert!(matches!(other.gather_rows(&x, &one.indices(vec![0]).unwrap()), Err(Error::ForeignStorage { .. })));
}

#[test]
fn refuses_to_add_a_tensor_to_a_shifted_view_of_itself() {
    let backend = backend(Isa::Scalar, 1);
    let x = backend.tensor(&[1.0, 2.0, 3.0], 1, 3).unwrap();
    let (mut left, right) = (x.columns(0, 2).unwrap(), x.columns(1, 2).unwrap());
    assert!(backend.add_assign(&mut left, &right).is_err());
    assert!(backend.add_assign(&mut left, &x.columns(0, 2).unwrap()).is_ok());
    backend.read_rows(&x, &mut |_, values| assert_eq!(values, [2.0, 4.0, 3.0])).unwrap();
}

#[test]
fn refuses_experts_there_are_not() {
    let backend = backend(Isa::Scalar, 1);
    let case = moe_table()[0];
    let (x, experts) = (random_tensor(&backend, 1, case.sizes.0, 1).unwrap(), case.load(&backend).unwrap());
    for number in [-1.0, 8.0, f32::NAN] {
        let mut routing = case.routing(&backend, 0, 1).unwrap();
        routing.experts = backend.tensor(&[0.0, number], 1, 2).unwrap();
        let message = backend.moe(&x, &routing, &experts, case.activation).unwrap_err().to_string();
        assert!(message.contains(&format!("expert {number} of 8")), "{message}");
    }
}
