//! What each family's fields mean where the goldens do not reach.

use rustllm_models::{LoadError, ModelConfig, NormKind, QkNorm, RopeScaling};
use rustllm_ops::Activation;
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

/// The base of each layer's rotary frequencies, where it has positions.
fn thetas(config: &ModelConfig) -> Vec<Option<f64>> {
    config.layers.iter().map(|layer| layer.rope.as_ref().map(|rope| rope.theta)).collect()
}

fn unsupported(architecture: &str, field: &str, value: Value) {
    let error = refused(&llama_like(architecture).with(field, value), &[field, "not supported for", architecture]);
    assert!(matches!(error, LoadError::UnsupportedField { .. }), "{error:?}");
}

#[test]
fn what_a_family_does_not_have_is_refused() {
    unsupported("CohereForCausalLM", "sliding_window", json!(8));
    unsupported("Ernie4_5ForCausalLM", "attention_bias", json!(true));
    unsupported("Gemma3ForCausalLM", "use_bidirectional_attention", json!(true));
    unsupported("GemmaForCausalLM", "attn_logit_softcapping", json!(50.0));
    unsupported("Glm4ForCausalLM", "use_qk_norm", json!(true));
    unsupported("Cohere2ForCausalLM", "use_qk_norm", json!(true));
    unsupported("GlmForCausalLM", "mlp_bias", json!(true));
    unsupported("GraniteForCausalLM", "num_local_experts", json!(4));
    unsupported("Olmo2ForCausalLM", "clip_qkv", json!(8.0));
    unsupported("Phi3ForCausalLM", "attention_bias", json!(true));
    unsupported("SmolLM3ForCausalLM", "partial_rotary_factor", json!(0.5));
    unsupported("Starcoder2ForCausalLM", "attn_logit_softcapping", json!(1.0));
    unsupported("LlamaForCausalLM", "logits_scaling", json!(8.0));
    unsupported("Qwen3ForCausalLM", "no_rope_layers", json!([1, 0]));
}

#[test]
fn gemma_caps_unless_told_not_to() {
    let gemma2 = || llama_like("Gemma2ForCausalLM");
    let caps = |folder: &Folder| {
        let config = config(folder);
        (config.attention.soft_cap, config.logit_soft_cap)
    };
    assert_eq!(caps(&gemma2()), (Some(50.0), Some(30.0)));
    assert_eq!(caps(&gemma2().with("attn_logit_softcapping", Value::Null)), (None, Some(30.0)));
    assert_eq!(caps(&gemma2().with("final_logit_softcapping", json!(7.0))), (Some(50.0), Some(7.0)));
    assert_eq!(caps(&llama_like("Gemma3ForCausalLM")), (None, None));
    refused(&gemma2().with("final_logit_softcapping", json!(-1.0)), &["final_logit_softcapping must be"]);
    refused(&gemma2().with("query_pre_attn_scalar", json!(0)), &["query_pre_attn_scalar must be"]);
}

#[test]
fn gemma_reads_its_defaults() {
    let gemma = config(&llama_like("GemmaForCausalLM").with("hidden_act", json!("gelu")));
    assert_eq!((gemma.feed_forward.activation, gemma.norm.kind), (Activation::GeluTanh, NormKind::RmsPlusOne));
    assert_eq!((gemma.multipliers.embedding, gemma.attention.head_dim), (4.0, 256));
    assert!(gemma.tie_word_embeddings);
    assert_eq!(windows(&llama_like("Gemma2ForCausalLM")), [Some(4096), None]);
    let gemma3 = llama_like("Gemma3ForCausalLM").without("rope_theta").with("sliding_window_pattern", json!(2));
    assert_eq!(thetas(&config(&gemma3)), [Some(10_000.0), Some(1_000_000.0)]);
    assert_eq!(windows(&gemma3.with("sliding_window", json!(8))), [Some(8), None]);
}

#[test]
fn gemma_with_images_fills_in_its_text_model() {
    let images = |text: Value| llama_like("Gemma3ForConditionalGeneration").with("text_config", text);
    let found = config(&images(json!({"hidden_size": 2560, "sliding_window": 1024})));
    assert_eq!((found.hidden_size, found.feed_forward.intermediate_size, found.num_layers()), (2560, 9216, 26));
    assert_eq!((found.attention.num_heads, found.attention.num_kv_heads, found.attention.head_dim), (8, 4, 256));
    assert_eq!((found.vocab_size, found.max_model_len), (262_208, 131_072));
    assert_eq!((&found.layers[4].sliding_window, &found.layers[5].sliding_window), (&Some(1024), &None));
    refused(&llama_like("Gemma3ForConditionalGeneration"), &["\"text_config\" is missing"]);
    refused(&images(json!({"hidden_size": 0})), &["text_config.hidden_size must be"]);
}

#[test]
fn rope_by_layer_type_takes_both_types_only() {
    let gemma3 = |rope: Value| llama_like("Gemma3ForCausalLM").with("rope_parameters", rope);
    let both = json!({"full_attention": {"rope_type": "default", "rope_theta": 5.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 7.0}});
    assert_eq!(thetas(&config(&gemma3(both).with("sliding_window_pattern", json!(2)))), [Some(7.0), Some(5.0)]);
    refused(&gemma3(json!({"chunked_attention": {}})), &["rope_parameters.chunked_attention"]);
    refused(&gemma3(json!({"rope_type": "default"})), &["rope_parameters.rope_type"]);
}

#[test]
fn layers_without_positions() {
    let smollm3 = |list: Value| llama_like("SmolLM3ForCausalLM").with("no_rope_layers", list);
    let theta = Some(10_000.0);
    assert_eq!(thetas(&config(&smollm3(Value::Null))), [theta, theta]);
    assert_eq!(thetas(&config(&smollm3(json!([0, 1])))), [None, theta]);
    let windowed = smollm3(json!([0, 1])).with("sliding_window", json!(8)).with("use_sliding_window", json!(true));
    assert_eq!(windows(&windowed), [Some(8), None]);
    refused(&smollm3(json!([1])), &["no_rope_layers must be a list of 2 entries"]);
    refused(&smollm3(json!([1, 2])), &["no_rope_layers must be a list of 2 entries"]);
    let cohere2 = llama_like("Cohere2ForCausalLM").with("sliding_window_pattern", json!(2));
    assert_eq!(thetas(&config(&cohere2)), [theta, None]);
}

#[test]
fn heads_rotate_in_part() {
    let stablelm = |part: f64| llama_like("StableLmForCausalLM").with("partial_rotary_factor", json!(part));
    let rotary_dim = |folder: &Folder| config(folder).layers[0].rope.as_ref().unwrap().rotary_dim;
    assert_eq!(rotary_dim(&stablelm(0.5)), 2);
    assert_eq!(rotary_dim(&stablelm(1.0)), 4);
    refused(&stablelm(0.25), &["partial_rotary_factor must be so that an even part of the 4 elements"]);
    refused(&stablelm(1.5), &["partial_rotary_factor must be a number above 0, at most 1"]);
}

#[test]
fn longrope_serves_its_first_context_unless_asked_for_more() {
    let rope = json!({"type": "longrope", "short_factor": [1.0, 2.0], "long_factor": [3.0, 4.0]});
    let phi3 = || llama_like("Phi3ForCausalLM").with("original_max_position_embeddings", json!(8));
    let found = config(&phi3().with("rope_scaling", rope.clone()));
    assert_eq!((found.max_model_len, found.default_max_model_len()), (32, 8));
    let Some(RopeScaling::LongRope { attention_factor, .. }) = &found.layers[0].rope.as_ref().unwrap().scaling else {
        panic!("{found:?}")
    };
    assert!((attention_factor - (1.0 + 4f64.ln() / 8f64.ln()).sqrt()).abs() < 1e-12);
    let changed = |name: &str, value: Value| {
        let mut rope = rope.clone();
        rope[name] = value;
        phi3().with("rope_scaling", rope)
    };
    refused(&changed("long_factor", json!([1.0])), &["rope_scaling.long_factor must be a list of 2 numbers above 0"]);
    refused(&changed("short_factor", Value::Null), &["\"rope_scaling.short_factor\" is missing"]);
    refused(&changed("short_factor", json!([1.0, "2"])), &["short_factor must be a list of numbers"]);
    refused(&changed("short_mscale", json!(1.2)), &["rope_scaling.short_mscale = 1.2"]);
}

#[test]
fn command_r_is_as_long_as_it_says() {
    let cohere = llama_like("CohereForCausalLM").with("logit_scale", json!(0.25));
    assert_eq!((config(&cohere).max_model_len, config(&cohere).multipliers.logits), (32, 0.25));
    assert_eq!(config(&cohere.with("model_max_length", json!(128))).max_model_len, 128);
}

#[test]
fn glm_and_ernie_read_their_defaults() {
    let glm = config(&llama_like("GlmForCausalLM").without("rms_norm_eps"));
    let rope = glm.layers[0].rope.as_ref().unwrap();
    assert_eq!((glm.attention.head_dim, rope.rotary_dim, rope.interleaved), (128, 64, true));
    assert!(glm.attention.qkv_bias && !glm.attention.output_bias && !glm.feed_forward.bias);
    assert_eq!(glm.norm.eps, 1.5625e-7);
    let ernie = || llama_like("Ernie4_5ForCausalLM").without("rope_theta");
    assert_eq!(thetas(&config(&ernie())), [Some(500_000.0); 2]);
    let heads = [ernie(), ernie().with("head_dim", Value::Null)].map(|folder| config(&folder).attention.head_dim);
    assert_eq!(heads, [128, 4]);
}

#[test]
fn gemma4_layers_differ() {
    let gemma4 = || llama_like("Gemma4ForCausalLM").with("vocab_size_per_layer_input", Value::Null);
    let found = config(&gemma4());
    assert_eq!(windows(&gemma4()), [Some(512), None]);
    assert_eq!(thetas(&found), [Some(10_000.0), Some(1_000_000.0)]);
    let kinds = |folder: &Folder| -> Vec<_> {
        let kinds = config(folder).kv_cache_kinds();
        kinds.iter().map(|kind| (kind.num_kv_heads, kind.head_dim)).collect()
    };
    let kv_heads = found.attention.num_kv_heads;
    assert_eq!(kinds(&gemma4()), [(kv_heads, found.attention.head_dim), (kv_heads, 512)]);
    let one = gemma4().with("num_global_key_value_heads", json!(1)).with("global_head_dim", json!(6));
    assert_eq!(kinds(&one)[1], (kv_heads, 6), "for keys that are values alone");
    assert_eq!(kinds(&one.with("attention_k_eq_v", json!(true)))[1], (1, 6));
    let input = found.per_layer_input.unwrap();
    assert_eq!((input.size, input.vocab_size), (256, 262_144));
    assert_eq!(config(&llama_like("Gemma4UnifiedForCausalLM")).per_layer_input, None);
    refused(&gemma4().with("num_kv_shared_layers", json!(1)), &["num_kv_shared_layers must be so few"]);
    refused(
        &gemma4().with("per_layer_config", json!({"1": {"sliding_window": 4}})),
        &["per_layer_config.1.sliding_window"],
    );
    refused(&gemma4().with("vocab_size_per_layer_input", json!(1)), &["vocab_size_per_layer_input must be"]);
    refused(&gemma4().with("use_bidirectional_attention", json!("all")), &["use_bidirectional_attention"]);
    refused(&gemma4().with("rope_parameters", json!({"full_attention": {}})), &["rope_parameters.sliding_attention"]);
    let unified = llama_like("Gemma4UnifiedForCausalLM");
    refused(&unified.with("enable_moe_block", json!(true)), &["enable_moe_block = true"]);
}

#[test]
fn gemma4_shares_what_the_last_layer_of_a_type_keeps() {
    let types = ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention", "full_attention"];
    let folder = llama_like("Gemma4ForCausalLM")
        .with("num_hidden_layers", json!(5))
        .with("layer_types", json!(types))
        .with("num_kv_shared_layers", json!(2))
        .with("use_double_wide_mlp", json!(true));
    let found = config(&folder);
    let sources: Vec<_> = found.layers.iter().map(|layer| layer.kv_source).collect();
    assert_eq!(sources, [None, None, None, Some(2), Some(1)]);
    let wide = Some(2 * found.feed_forward.intermediate_size);
    assert!(found.layers[..3].iter().all(|layer| layer.intermediate_size.is_none()));
    assert!(found.layers[3..].iter().all(|layer| layer.intermediate_size == wide));
    assert_eq!(found.kv_cache_kinds().len(), 3);
}

#[test]
fn fp8_is_read_in_the_forms_that_are_unpacked() {
    let folder = |quantization: Value| Folder::llama().with("quantization_config", quantization);
    let block = |quantization: Value| config(&folder(quantization)).fp8.map(|fp8| (fp8.block_rows, fp8.block_cols));
    let weights =
        |strategy: &str| json!({"type": "float", "num_bits": 8, "strategy": strategy, "block_structure": [4, 2]});
    let groups = |strategy: &str| {
        json!({"quant_method": "compressed-tensors", "format": "float-quantized",
            "config_groups": {"group_0": {"weights": weights(strategy)}}})
    };
    assert_eq!(block(Value::Null), None);
    assert_eq!(block(json!({"quant_method": "fp8"})), Some((128, 128)));
    assert_eq!(block(json!({"quant_method": "fp8", "weight_block_size": [64, 32]})), Some((64, 32)));
    assert_eq!(block(groups("block")), Some((4, 2)));
    refused(&folder(json!({"quant_method": "fp8", "fmt": "e5m2"})), &["quantization_config.fmt must be e4m3"]);
    refused(&folder(json!({"quant_method": "fp8", "weight_block_size": [64]})), &["weight_block_size must be two"]);
    refused(&folder(groups("group")), &["strategy must be one of tensor, channel, block"]);
    let packed = json!({"quant_method": "compressed-tensors", "format": "pack-quantized"});
    refused(&folder(packed), &["quantization_config", "LlamaForCausalLM"]);
}
