//! What the fields of mixtures of experts mean, and which are refused.

use rustllm_models::{LoadError, ModelConfig, MoeConfig};
use rustllm_ops::{GatedActivation, Scoring};
use serde_json::{Map, Value, json};

use crate::folder::{Folder, TestTensor};
use crate::refused;

fn moe(folder: &Folder) -> MoeConfig {
    ModelConfig::from_dir(folder.path(), &Map::new()).unwrap().moe.unwrap()
}

fn of(architecture: &str, fields: Value) -> Folder {
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    let folder = Folder::llama().with("architectures", json!([architecture]));
    fields.into_iter().fold(folder, |folder, (name, value)| folder.with(&name, value))
}

fn mixtral() -> Folder {
    of("MixtralForCausalLM", json!({"num_local_experts": 3, "num_experts_per_tok": 2}))
}

fn qwen2_moe() -> Folder {
    of("Qwen2MoeForCausalLM", json!({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 8}))
}

fn deepseek(version: u32) -> Folder {
    of(
        &format!("DeepseekV{version}ForCausalLM"),
        json!({
            "num_key_value_heads": 4, "kv_lora_rank": 8, "q_lora_rank": null, "qk_rope_head_dim": 4,
            "qk_nope_head_dim": 6, "v_head_dim": 6, "n_routed_experts": 8, "num_experts_per_tok": 2,
            "moe_intermediate_size": 8, "n_shared_experts": 2, "n_group": 4, "topk_group": 2,
        }),
    )
}

/// The tensors of Mixtral's layers, each expert apart.
fn with_experts(folder: Folder) -> Folder {
    folder.edit(|tensors| {
        tensors.retain(|name, _| !name.contains(".mlp."));
        for layer in 0..2 {
            let layer = format!("model.layers.{layer}.block_sparse_moe");
            tensors.insert(format!("{layer}.gate.weight"), TestTensor::f32(&[3, 16]));
            for (expert, name, shape) in
                (0..3).flat_map(|expert| [(expert, "w1", [20, 16]), (expert, "w2", [16, 20]), (expert, "w3", [20, 16])])
            {
                tensors.insert(format!("{layer}.experts.{expert}.{name}.weight"), TestTensor::f32(&shape));
            }
        }
    })
}

#[test]
fn mixtral_renormalizes_and_has_no_window() {
    let config = moe(&mixtral());
    assert!(config.routing.renormalize && config.shared.is_none() && !config.correction_bias);
    assert_eq!((config.num_experts, config.routing.top_k, config.intermediate_size), (3, 2, 20));
    assert_eq!(config.sparse_layers, [true, true]);
    refused(&mixtral().with("num_experts_per_tok", json!(4)), &["num_experts_per_tok must be", "between 1 and 3"]);
    refused(&mixtral().with("num_local_experts", json!(0)), &["num_local_experts must be"]);
    refused(&mixtral().with("attention_bias", json!(true)), &["attention_bias = true", "MixtralForCausalLM"]);
    refused(&mixtral().with("n_routed_experts", json!(3)), &["n_routed_experts = 3"]);
}

#[test]
fn an_expert_that_is_missing_is_named() {
    refused(&with_experts(mixtral()).with("num_local_experts", json!(4)), &["gate.weight has shape [3, 16]"]);
    let folder = with_experts(mixtral()).edit(|tensors| {
        tensors.remove("model.layers.1.block_sparse_moe.experts.2.w3.weight").unwrap();
    });
    let error = refused(&folder, &["model.layers.1.block_sparse_moe.experts.2.w3.weight is missing"]);
    assert!(matches!(error, LoadError::MissingTensor { .. }));
}

#[test]
fn an_expert_too_many_is_refused() {
    let folder = with_experts(mixtral()).edit(|tensors| {
        let name = "model.layers.0.block_sparse_moe.experts.3.w1.weight";
        tensors.insert(name.into(), TestTensor::f32(&[20, 16]));
    });
    refused(&folder, &["no place for", "experts.3.w1.weight"]);
}

#[test]
fn qwen_says_which_layers_are_sparse() {
    let sparse = |folder: Folder| moe(&folder.with("num_hidden_layers", json!(4))).sparse_layers;
    assert_eq!(sparse(qwen2_moe()), [true; 4]);
    assert_eq!(sparse(qwen2_moe().with("decoder_sparse_step", json!(2))), [false, true, false, true]);
    assert_eq!(sparse(qwen2_moe().with("mlp_only_layers", json!([0, 2]))), [false, true, false, true]);
    refused(&qwen2_moe().with("mlp_only_layers", json!(["0"])), &["mlp_only_layers must be a list of layers' numbers"]);
    refused(&qwen2_moe().with("decoder_sparse_step", json!(0)), &["decoder_sparse_step must be"]);
}

#[test]
fn qwen_experts_and_their_shared_one() {
    let config = moe(&qwen2_moe());
    assert!(!config.routing.renormalize);
    assert_eq!(config.shared.map(|shared| (shared.intermediate_size, shared.gated)), Some((5632, true)));
    assert!(moe(&qwen2_moe().with("norm_topk_prob", json!(true))).routing.renormalize);
    for architecture in ["Qwen2MoeForCausalLM", "Qwen3MoeForCausalLM"] {
        let windowed = of(architecture, json!({"use_sliding_window": true, "sliding_window": 8}));
        refused(&windowed, &["use_sliding_window = true", architecture]);
    }
}

#[test]
fn olmoe_does_not_clip() {
    let olmoe = || of("OlmoeForCausalLM", json!({"num_experts": 4, "num_experts_per_tok": 2}));
    assert!(!moe(&olmoe()).routing.renormalize);
    refused(&olmoe().with("clip_qkv", json!(8.0)), &["clip_qkv = 8.0", "OlmoeForCausalLM"]);
}

#[test]
fn deepseek_routes_by_version() {
    let v2 = moe(&deepseek(2));
    assert_eq!((v2.routing.scoring, v2.routing.groups, v2.correction_bias), (Scoring::Softmax, None, false));
    assert_eq!(v2.sparse_layers, [true, true]);
    assert_eq!(v2.shared.map(|shared| (shared.intermediate_size, shared.gated)), Some((16, false)));
    let v3 = moe(&deepseek(3).with("first_k_dense_replace", json!(1)));
    assert_eq!((v3.routing.scoring, v3.correction_bias), (Scoring::Sigmoid, true));
    assert_eq!(v3.routing.groups.map(|groups| (groups.num_groups, groups.topk_group)), Some((4, 2)));
    assert_eq!((v3.routing.scaling_factor, v3.sparse_layers), (2.5, vec![false, true]));
}

#[test]
fn deepseek_refuses_other_routing_and_attention() {
    let grouped = || deepseek(2).with("topk_method", json!("group_limited_greedy"));
    refused(
        &deepseek(2).with("topk_method", json!("noaux_tc")),
        &["topk_method must be greedy or group_limited_greedy"],
    );
    refused(&deepseek(2).with("scoring_func", json!("sigmoid")), &["scoring_func must be softmax"]);
    refused(&deepseek(2).with("norm_topk_prob", json!(true)), &["norm_topk_prob = true", "DeepseekV2ForCausalLM"]);
    refused(&deepseek(2).with("moe_layer_freq", json!(2)), &["moe_layer_freq must be"]);
    refused(&grouped().with("n_group", json!(3)), &["n_routed_experts must be divisible by n_group (3)"]);
    refused(&grouped().with("num_experts_per_tok", json!(5)), &["num_experts_per_tok must be", "between 1 and 4"]);
    refused(&deepseek(3).with("v_head_dim", json!(11)), &["v_head_dim must be at most a key's width (10)"]);
    refused(&deepseek(3).with("v_head_dim", json!(1)), &["v_head_dim must be", "an eighth of it at least"]);
    refused(&deepseek(3).with("qk_rope_head_dim", json!(3)), &["qk_rope_head_dim must be even, got 3"]);
    refused(
        &deepseek(3).with("num_key_value_heads", json!(2)),
        &["num_key_value_heads must be num_attention_heads (4)"],
    );
    refused(&deepseek(3).with("attention_bias", json!(true)), &["attention_bias = true", "DeepseekV3ForCausalLM"]);
    refused(&deepseek(3).without("kv_lora_rank"), &["kv_lora_rank"]);
}

fn gpt_oss() -> Folder {
    of("GptOssForCausalLM", json!({"num_local_experts": 4, "rope_scaling": {"rope_type": "default"}}))
}

#[test]
fn gpt_oss_clamps_and_slides_on_every_other_layer() {
    let config = moe(&gpt_oss());
    assert_eq!(config.activation, GatedActivation::ClampedSwiglu { alpha: 1.702, limit: 7.0 });
    assert_eq!((config.num_experts, config.routing.top_k), (4, 4));
    let layers = ModelConfig::from_dir(gpt_oss().path(), &Map::new()).unwrap().layers;
    assert_eq!(layers.iter().map(|layer| layer.sliding_window).collect::<Vec<_>>(), [Some(128), None]);
    refused(&gpt_oss().without("rope_scaling"), &["\"rope_scaling\" is missing"]);
    refused(&gpt_oss().with("swiglu_limit", json!(-1)), &["swiglu_limit must be"]);
    let quantized = gpt_oss().with("quantization_config", json!({"quant_method": "awq"}));
    refused(&quantized, &["quantization_config.quant_method = \"awq\"", "GptOssForCausalLM"]);
}
