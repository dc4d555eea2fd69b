//! What each family's fields mean where the goldens do not reach.

use rustllm_models::{ModelConfig, QkNorm};
use serde_json::{Map, Value, json};

use crate::folder::Folder;
use crate::refused;

fn config(folder: &Folder) -> ModelConfig {
    ModelConfig::from_dir(folder.path(), &Map::new()).unwrap()
}

fn llama_like(architecture: &str) -> Folder {
    Folder::llama().with("architectures", json!([architecture]))
}

fn windows(folder: &Folder) -> Vec<Option<usize>> {
    config(folder).layers.iter().map(|layer| layer.sliding_window).collect()
}

#[test]
fn mistral_slides_unless_told_not_to() {
    let mistral = || llama_like("MistralForCausalLM");
    assert_eq!(windows(&mistral()), [Some(4096); 2]);
    assert_eq!(windows(&mistral().with("sliding_window", Value::Null)), [None; 2]);
    assert_eq!(windows(&mistral().with("sliding_window", json!(8))), [Some(8); 2]);
    refused(&mistral().with("sliding_window", json!(0)), &["sliding_window must be"]);
    refused(&mistral().with("attention_bias", json!(true)), &["attention_bias = true", "MistralForCausalLM"]);
}

#[test]
fn qwen_slides_only_when_switched_on() {
    for architecture in ["Qwen2ForCausalLM", "Qwen3ForCausalLM"] {
        let qwen = || llama_like(architecture).with("sliding_window", json!(8)).with("max_window_layers", json!(1));
        assert_eq!(windows(&qwen()), [None; 2]);
        let on = || qwen().with("use_sliding_window", json!(true));
        assert_eq!(windows(&on()), [None, Some(8)]);
        let types = |first: &str| on().with("layer_types", json!([first, "full_attention"]));
        assert_eq!(windows(&types("sliding_attention")), [Some(8), None]);
        refused(&types("chunked_attention"), &["layer_types must be a list of 2 entries", "chunked_attention"]);
    }
}

#[test]
fn qwen_biases_and_norms() {
    let qwen2 = config(&llama_like("Qwen2ForCausalLM"));
    assert!(qwen2.attention.qkv_bias && !qwen2.attention.output_bias && qwen2.attention.qk_norm.is_none());
    let qwen3 = config(&llama_like("Qwen3ForCausalLM"));
    assert!(qwen3.attention.qk_norm == Some(QkNorm::Head) && !qwen3.attention.qkv_bias);
    assert_eq!((qwen3.attention.head_dim, qwen2.attention.head_dim), (128, 4));
}

#[test]
fn gpt2_scales_attention_as_its_switches_say() {
    let scales = |switch: &str, on: bool| -> Vec<f32> {
        let folder = Folder::gpt2().with("n_layer", json!(2)).with(switch, json!(on));
        config(&folder).layers.iter().map(|layer| layer.attention_scale).collect()
    };
    assert_eq!(scales("scale_attn_weights", true), [0.5, 0.5]);
    assert_eq!(scales("scale_attn_weights", false), [1.0, 1.0]);
    assert_eq!(scales("scale_attn_by_inverse_layer_idx", true), [0.5, 0.25]);
    assert_eq!(config(&Folder::gpt2()).feed_forward.intermediate_size, 32);
}
