//! Broken and unsupported configurations, and what the options may ask for.

use std::fs;

use rustllm_models::{LoadError, LoadOptions, load};
use rustllm_ops::{DType, ReferenceBackend};
use serde_json::{Value, json};

use crate::folder::Folder;
use crate::{refused, try_load};

#[test]
fn config_values_out_of_range_name_field_value_and_range() {
    let cases: Vec<(&str, Value, &[&str])> = vec![
        ("num_attention_heads", json!(0), &["must be a whole number between 1 and", "got 0"]),
        ("num_attention_heads", json!(-4), &["got -4"]),
        ("num_attention_heads", json!(2.5), &["got 2.5"]),
        ("num_attention_heads", json!("4"), &["got \"4\""]),
        ("num_attention_heads", json!(3), &["divisible by num_key_value_heads (2)"]),
        ("num_key_value_heads", json!(0), &["between 1 and 4", "got 0"]),
        ("num_key_value_heads", json!(8), &["between 1 and 4", "got 8"]),
        ("num_hidden_layers", json!(1_000_000_000), &["between 1 and 10000", "got 1000000000"]),
        ("num_hidden_layers", json!(0), &["between 1 and 10000"]),
        ("hidden_size", json!(0), &["hidden_size must be"]),
        ("hidden_size", json!(18), &["divisible by num_attention_heads (4)"]),
        ("hidden_size", json!(1e300), &["hidden_size must be"]),
        ("intermediate_size", json!(u64::MAX), &["intermediate_size must be", "18446744073709551615"]),
        ("head_dim", json!(0), &["head_dim must be"]),
        ("head_dim", json!(5), &["head_dim must be even"]),
        ("vocab_size", json!(0), &["vocab_size must be"]),
        ("vocab_size", json!((1u64 << 31) + 1), &["between 1 and 2147483648"]),
        ("max_position_embeddings", json!(0), &["max_position_embeddings must be"]),
        ("rms_norm_eps", json!(-1e-5), &["rms_norm_eps must be a number above 0"]),
        ("rms_norm_eps", json!(0.0), &["rms_norm_eps must be a number above 0"]),
        ("rms_norm_eps", json!(1e-60), &["rms_norm_eps must be"]),
        ("rope_theta", json!(-10000), &["rope_theta must be a finite number above 0", "got -10000"]),
        ("rope_theta", json!(0), &["rope_theta must be"]),
        ("hidden_act", json!("quick_gelu2"), &["one of silu", "gelu_new", "got \"quick_gelu2\""]),
        ("hidden_act", json!(7), &["hidden_act must be a string"]),
        ("torch_dtype", json!("float8_e4m3fn"), &["float32, float16 or bfloat16", "float8_e4m3fn"]),
        ("attention_bias", json!("yes"), &["true or false"]),
        ("tie_word_embeddings", json!(1), &["true or false"]),
        ("eos_token_id", json!(-1), &["a token id or a list of them"]),
        ("eos_token_id", json!([2, "3"]), &["a token id or a list of them"]),
        ("architectures", json!("LlamaForCausalLM"), &["architectures must be a list of strings"]),
    ];
    for (field, value, parts) in cases {
        let error = refused(&Folder::llama().with(field, value), parts);
        assert!(matches!(error, LoadError::InvalidField { .. }), "{field}: {error:?}");
        assert!(error.to_string().contains("config.json"));
    }
}

#[test]
fn missing_fields_are_named() {
    for field in ["hidden_size", "num_attention_heads", "num_hidden_layers", "vocab_size", "architectures"] {
        for folder in [Folder::llama().without(field), Folder::llama().with(field, Value::Null)] {
            let error = refused(&folder, &["config.json", field, "missing"]);
            assert!(matches!(error, LoadError::MissingField { .. }));
        }
    }
    refused(&Folder::gpt2().without("n_positions"), &["\"n_positions\" is missing"]);
}

#[test]
fn json_that_is_no_configuration() {
    let nan = Folder::llama();
    let text = fs::read_to_string(nan.path().join("config.json")).unwrap();
    for literal in ["NaN", "Infinity", "-Infinity", "1e999"] {
        let broken = text.replace("\"rms_norm_eps\": 0.00001", &format!("\"rms_norm_eps\": {literal}"));
        assert_ne!(broken, text);
        fs::write(nan.path().join("config.json"), broken).unwrap();
        assert!(matches!(refused(&nan, &["config.json", "rms_norm_eps", literal]), LoadError::Json { .. }));
    }
    let deep = "[".repeat(100_000);
    for broken in ["", "[]", "null", "{", "{\"a\":}", deep.as_str()] {
        fs::write(nan.path().join("config.json"), broken).unwrap();
        assert!(matches!(refused(&nan, &["config.json"]), LoadError::Json { .. }));
    }
    fs::write(nan.path().join("config.json"), [0xff, 0xfe]).unwrap();
    assert!(matches!(refused(&nan, &["config.json"]), LoadError::Io { .. }));
    fs::remove_file(nan.path().join("config.json")).unwrap();
    assert!(matches!(refused(&nan, &["config.json"]), LoadError::Io { .. }));
    fs::create_dir(nan.path().join("config.json")).unwrap();
    assert!(matches!(refused(&nan, &["config.json", "regular file"]), LoadError::Json { .. }));
}

#[test]
fn what_changes_the_computation_is_refused() {
    for (field, value) in [
        ("quantization_config", json!({"quant_method": "gptq", "bits": 4})),
        ("final_logit_softcapping", json!(30.0)),
        ("attn_logit_softcapping", json!(50.0)),
        ("partial_rotary_factor", json!(0.5)),
        ("sliding_window", json!(4096)),
        ("num_local_experts", json!(8)),
        ("embedding_multiplier", json!(12.0)),
        ("layer_types", json!(["full_attention", "sliding_attention"])),
        ("rope_scaling", json!({"rope_type": "default", "mrope_section": [16, 24, 24]})),
        ("rope_parameters", json!({"full_attention": {"rope_type": "default"}})),
    ] {
        let error = refused(&Folder::llama().with(field, value), &[field, "not supported for LlamaForCausalLM"]);
        assert!(matches!(error, LoadError::UnsupportedField { .. }), "{error:?}");
    }
    refused(&Folder::gpt2().with("add_cross_attention", json!(true)), &["add_cross_attention = true"]);
    // The values under which such fields change nothing.
    let neutral = Folder::llama()
        .with("quantization_config", Value::Null)
        .with("partial_rotary_factor", json!(1.0))
        .with("num_local_experts", json!(0))
        .with("pruned_heads", json!({}))
        .with("layer_types", json!(["full_attention", "full_attention"]));
    try_load(&neutral).unwrap();
}

#[test]
fn rope_rules() {
    let llama3 = json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16});
    try_load(&Folder::llama().with("rope_scaling", llama3.clone())).unwrap();
    let changed = |name: &str, value: Value| {
        let mut rule = llama3.clone();
        rule[name] = value;
        Folder::llama().with("rope_scaling", rule)
    };
    refused(
        &changed("rope_type", json!("ntk")),
        &["rope_scaling.rope_type", "default, linear, dynamic, llama3", "ntk"],
    );
    refused(&changed("factor", json!(0.5)), &["rope_scaling.factor must be a number between 1"]);
    refused(&changed("factor", Value::Null), &["\"rope_scaling.factor\" is missing"]);
    refused(&changed("high_freq_factor", json!(1.0)), &["above low_freq_factor (1)"]);
    refused(&changed("low_freq_factor", json!(-1.0)), &["rope_scaling.low_freq_factor"]);
    refused(&changed("original_max_position_embeddings", json!(0)), &["original_max_position_embeddings"]);
    refused(&changed("beta_fast", json!(32)), &["rope_scaling.beta_fast = 32"]);
    let yarn = |name: &str, value: Value| {
        let mut rule = json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16});
        rule[name] = value;
        Folder::llama().with("rope_scaling", rule)
    };
    assert_eq!(try_load(&yarn("truncate", json!(false))).unwrap().max_model_len, 64);
    refused(&yarn("beta_fast", json!(0.5)), &["rope_scaling.beta_fast must be at least beta_slow (1)"]);
    refused(&yarn("mscale", json!(0)), &["rope_scaling.mscale must be a number above 0"]);
    refused(&yarn("low_freq_factor", json!(1.0)), &["rope_scaling.low_freq_factor = 1"]);
    let dynamic = |factor: Value| Folder::llama().with("rope_scaling", json!({"type": "dynamic", "factor": factor}));
    assert_eq!(try_load(&dynamic(json!(3.0))).unwrap().max_model_len, 96);
    refused(&dynamic(json!(0)), &["rope_scaling.factor must be a number between 1"]);
    refused(&Folder::llama().with("rope_scaling", json!("linear")), &["rope_scaling must be an object"]);
}

#[test]
fn absurd_contexts_take_no_memory() {
    let folder = Folder::llama().with("max_position_embeddings", json!(2_000_000_000));
    let error = refused(&folder, &["max_model_len 2000000000", "set max_model_len to"]);
    assert!(matches!(error, LoadError::RopeTableTooLarge { .. }));
    let options = LoadOptions { max_model_len: Some(64), ..LoadOptions::default() };
    assert_eq!(load(folder.path(), &ReferenceBackend, options).unwrap().max_model_len, 64);
}

#[test]
fn max_model_len_past_the_model_names_both() {
    for requested in [0, 33] {
        let options = LoadOptions { max_model_len: Some(requested), ..LoadOptions::default() };
        let message = load(Folder::llama().path(), &ReferenceBackend, options).unwrap_err().to_string();
        let expected = format!("max_model_len must be between 1 and the model's limit of 32, got {requested}");
        assert_eq!(message, expected);
    }
}

#[test]
fn overrides_are_checked_like_the_file() {
    let load_with = |overrides: Value| {
        let hf_overrides = overrides.as_object().unwrap().clone();
        load(Folder::llama().path(), &ReferenceBackend, LoadOptions { hf_overrides, ..LoadOptions::default() })
    };
    let loaded = load_with(json!({"max_position_embeddings": 16, "eos_token_id": [3, 4]})).unwrap();
    assert_eq!((loaded.max_model_len, loaded.eos_token_ids), (16, vec![3, 4]));
    let message = load_with(json!({"rms_norm_eps": 2})).unwrap_err().to_string();
    assert!(message.contains("rms_norm_eps must be"), "{message}");
}

#[test]
fn unsupported_architectures_list_the_supported_and_run_nothing() {
    let folder = Folder::llama()
        .with("architectures", json!(["EvilForCausalLM"]))
        .with("auto_map", json!({"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"}));
    let marker = folder.path().join("executed");
    fs::write(folder.path().join("modeling_evil.py"), format!("open({:?}, 'w')", marker.display())).unwrap();
    let error = refused(&folder, &["EvilForCausalLM", "LlamaForCausalLM", "GPT2LMHeadModel", "never run"]);
    assert!(matches!(error, LoadError::UnsupportedArchitecture { .. }));
    // Python beside a supported architecture is not looked at either.
    let known = folder.with("architectures", json!(["EvilForCausalLM", "LlamaForCausalLM"]));
    assert_eq!(try_load(&known).unwrap().architecture, "LlamaForCausalLM");
    assert!(!marker.exists());
}

#[test]
fn eos_ids_come_from_the_generation_config_first() {
    let ids = |folder: &Folder| try_load(folder).unwrap().eos_token_ids;
    let folder = Folder::llama().with("eos_token_id", json!(7));
    assert_eq!(ids(&folder), [7]);
    fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": null}").unwrap();
    assert_eq!(ids(&folder), [7]);
    fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": [8, 9]}").unwrap();
    assert_eq!(ids(&folder), [8, 9]);
    fs::write(folder.path().join("generation_config.json"), "{\"eos_token_id\": 4294967296}").unwrap();
    refused(&folder, &["generation_config.json", "eos_token_id must be"]);
}

#[test]
fn dtype_auto_is_the_file_s_then_the_tensors_() {
    assert_eq!(try_load(&Folder::llama()).unwrap().dtype, DType::F32);
    assert_eq!(try_load(&Folder::llama().with("dtype", json!("bfloat16"))).unwrap().dtype, DType::BF16);
    let half = Folder::llama().converted("F16");
    assert_eq!(try_load(&half).unwrap().dtype, DType::F16);
    let options = LoadOptions { dtype: Some(DType::BF16), ..LoadOptions::default() };
    assert_eq!(load(half.path(), &ReferenceBackend, options).unwrap().dtype, DType::BF16);
}
