//! Every architecture computes what transformers computes: log probabilities within 1e-4, greedy tokens equal.

#![allow(clippy::unwrap_used)]

mod golden;

use rustllm_models::{LoadOptions, ModelConfig, load, supported_architectures};
use rustllm_ops::{DType, ReferenceBackend};
use serde_json::Map;

#[test]
fn goldens_in_one_prefill_step() {
    for case in golden::cases() {
        let error = golden::check_case(&case, &ReferenceBackend, usize::MAX, 100);
        println!("{}: largest error {error:.1e}", case.display());
    }
}

#[test]
fn goldens_with_long_prompts_in_chunks() {
    for name in ["llama_rope_llama3", "mistral_sliding_window", "qwen3", "gpt2"] {
        let case = golden::cases().into_iter().find(|case| case.ends_with(name)).unwrap();
        let error = golden::check_case(&case, &ReferenceBackend, 37, usize::MAX);
        println!("{name}: largest error {error:.1e}");
    }
}

#[test]
fn every_supported_architecture_has_a_golden() {
    let configs = golden::cases().into_iter().map(|case| ModelConfig::from_dir(&case, &Map::new()).unwrap());
    let mut covered: Vec<_> = configs.map(|config| config.architecture).collect();
    covered.sort_unstable();
    covered.dedup();
    let generating = supported_architectures();
    let generating = generating.iter().filter(|name| name.ends_with("ForCausalLM") || name.ends_with("LMHeadModel"));
    assert_eq!(covered, generating.collect::<Vec<_>>());
}

/// transformers 4 and 5 spell the same configuration differently.
#[test]
fn both_spellings_read_alike() {
    for case in golden::cases() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy(case.join("config.other.json"), folder.path().join("config.json")).unwrap();
        std::fs::copy(case.join("generation_config.json"), folder.path().join("generation_config.json")).unwrap();
        let one = ModelConfig::from_dir(&case, &Map::new()).unwrap();
        let other = ModelConfig::from_dir(folder.path(), &Map::new()).unwrap();
        assert_eq!(one, ModelConfig { dtype: one.dtype, ..other }, "{}", case.display());
    }
}

#[test]
fn load_reports_what_it_loaded() {
    let case = |name: &str| golden::cases().into_iter().find(|case| case.ends_with(name)).unwrap();
    let mut calls = Vec::new();
    let mut progress = |loaded, total| calls.push((loaded, total));
    let options = LoadOptions { progress: Some(&mut progress), ..LoadOptions::default() };
    let loaded = load(&case("llama_sharded"), &ReferenceBackend, options).unwrap();
    let total = loaded.num_parameters * 4;
    assert!(calls.is_sorted() && calls.len() > 10);
    assert_eq!(calls.last(), Some(&(total, total)));
    assert_eq!((loaded.dtype, loaded.max_model_len), (DType::F32, 512));
    assert_eq!(loaded.eos_token_ids, [2]);

    let half = load(&case("llama_bf16"), &ReferenceBackend, LoadOptions::default()).unwrap();
    assert_eq!(half.dtype, DType::BF16);
    // No dtype in the file: that of its tensors.
    let unnamed = load(&case("gpt2_unprefixed"), &ReferenceBackend, LoadOptions::default()).unwrap();
    let config = ModelConfig::from_dir(&case("gpt2_unprefixed"), &Map::new()).unwrap();
    assert_eq!((config.dtype, unnamed.dtype), (None, DType::F32));
    // Linear scaling by 2 doubles the context.
    let linear = ModelConfig::from_dir(&case("llama_rope_linear"), &Map::new()).unwrap();
    assert_eq!((linear.max_position_embeddings, linear.max_model_len), (512, 1024));
}
