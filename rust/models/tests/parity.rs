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
    let first = ["llama_rope_llama3", "mistral_sliding_window", "qwen3", "gpt2"];
    let classics = ["bloom", "codegen", "gpt_bigcode", "mpt", "opt_post_norm", "phi"];
    for name in first.into_iter().chain(classics) {
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
    assert_eq!(covered, generating());
}

/// The architectures that generate; the others are pooled.
fn generating() -> Vec<String> {
    let ends = ["ForCausalLM", "ForConditionalGeneration", "LMHeadModel"];
    supported_architectures().into_iter().filter(|name| ends.iter().any(|end| name.ends_with(end))).collect()
}

#[test]
fn the_table_of_models_lists_what_loads() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/supported_models.md");
    let text = std::fs::read_to_string(path).unwrap();
    let names = text.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`')).map(|(name, _)| name);
    let listed: Vec<_> = names.filter(|name| name.starts_with(char::is_uppercase)).collect();
    assert_eq!(listed, generating());
    let heads = ["Model", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM"];
    for name in supported_architectures().iter().filter(|name| !listed.contains(&name.as_str())) {
        let family = heads.iter().find_map(|head| name.strip_suffix(head)).unwrap();
        let is_listed = listed.iter().any(|listed| listed.starts_with(family));
        assert!(is_listed || text.contains(&format!("`{family}...`")), "{name} is not listed");
    }
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
