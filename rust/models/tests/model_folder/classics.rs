//! The decoders from GPT-NeoX to MPT: what their fields mean where the goldens do not reach, and what of them is refused.

use rustllm_models::{BlockKind, LoadError, ModelConfig};
use serde_json::{Map, Value, json};

use crate::folder::{Folder, TestTensor};
use crate::{refused, try_load};

/// A golden of each family, and the prefix of its base model's tensors.
const FAMILIES: [(&str, &str); 9] = [
    ("bloom", "transformer."),
    ("codegen", "transformer."),
    ("falcon", "transformer."),
    ("gpt_bigcode", "transformer."),
    ("gpt_neox", "gpt_neox."),
    ("gptj", "transformer."),
    ("mpt", "transformer."),
    ("opt", "model."),
    ("phi", "model."),
];

fn config(folder: &Folder) -> ModelConfig {
    ModelConfig::from_dir(folder.path(), &Map::new()).unwrap()
}

fn attention(field: &str, value: Value) -> Value {
    json!({"alibi": true, field: value})
}

#[test]
fn what_changes_the_computation_is_refused() {
    for (case, field, value) in [
        ("bloom", "apply_residual_connection_post_layernorm", json!(true)),
        ("bloom", "quantization_config", json!({"quant_method": "gptq"})),
        ("falcon", "final_logit_softcapping", json!(30.0)),
        ("gpt_bigcode", "add_cross_attention", json!(true)),
        ("gpt_neox", "num_experts", json!(8)),
        ("gptj", "rope_scaling", json!({"type": "linear", "factor": 2.0})),
        ("mpt", "no_bias", json!(false)),
        ("mpt", "logit_scale", json!("inv_sqrt_d_model")),
        ("opt", "_remove_final_layer_norm", json!(true)),
        ("opt", "layer_norm_elementwise_affine", json!(false)),
        ("phi", "qk_layernorm", json!(true)),
    ] {
        let error = refused(&Folder::golden(case).with(field, value), &[field, "is not supported for"]);
        assert!(matches!(error, LoadError::UnsupportedField { .. }), "{case}: {error:?}");
    }
    for (field, value) in [("alibi", json!(false)), ("prefix_lm", json!(true)), ("qk_ln", json!(true))] {
        let folder = Folder::golden("mpt").with("attn_config", attention(field, value));
        refused(&folder, &[&format!("attn_config.{field}"), "is not supported for MptForCausalLM"]);
    }
}

#[test]
fn values_out_of_range_name_field_and_range() {
    let cases: [(&str, &str, Value, &[&str]); 13] = [
        ("gpt_neox", "rotary_pct", json!(0), &["rotary_pct must be a number above 0"]),
        ("gpt_neox", "rotary_emb_base", json!(-1), &["rotary_emb_base must be a finite number above 0"]),
        ("gptj", "rotary_dim", json!(3), &["rotary_dim must be even"]),
        ("gptj", "rotary_dim", json!(10), &["between 2 and 8", "got 10"]),
        ("codegen", "n_head", json!(2), &["n_head must be divisible by 4"]),
        ("falcon_new_decoder", "num_kv_heads", json!(3), &["divisible by num_kv_heads (3)"]),
        ("falcon", "num_ln_in_parallel_attn", json!(2), &["num_ln_in_parallel_attn must be", "got 2"]),
        ("opt", "word_embed_proj_dim", json!(0), &["word_embed_proj_dim must be"]),
        ("opt", "activation_function", json!("maxout"), &["activation_function must be one of", "maxout"]),
        ("bloom", "n_head", json!(5), &["n_embed must be divisible by n_head (5)"]),
        ("mpt", "norm_type", json!("rmsnorm"), &["norm_type must be low_precision_layernorm or layernorm"]),
        ("mpt", "attn_config", attention("clip_qkv", json!(-1)), &["attn_config.clip_qkv must be", "above 0"]),
        ("mpt", "attn_config", attention("attn_type", json!("multiquery_attention")), &["multihead_attention, got"]),
    ];
    for (case, field, value, parts) in cases {
        let error = refused(&Folder::golden(case).with(field, value), parts);
        assert!(matches!(error, LoadError::InvalidField { .. }), "{case}: {error:?}");
    }
    for (case, field) in [("gptj", "n_positions"), ("opt", "max_position_embeddings"), ("mpt", "d_model")] {
        assert!(matches!(refused(&Folder::golden(case).without(field), &[field]), LoadError::MissingField { .. }));
    }
}

#[test]
fn buffers_of_old_checkpoints_are_no_parameters() {
    for (case, name) in [
        ("codegen", "transformer.h.0.attn.causal_mask"),
        ("falcon", "transformer.h.0.self_attention.rotary.inv_freq"),
        ("gpt_bigcode", "transformer.h.0.attn.bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.masked_bias"),
        ("gpt_neox", "gpt_neox.layers.1.attention.rotary_emb.inv_freq"),
        ("gptj", "transformer.h.0.attn.masked_bias"),
        ("phi", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ] {
        let with =
            |name: &str| Folder::golden(case).edit(|tensors| drop(tensors.insert(name.into(), TestTensor::f32(&[4]))));
        try_load(&with(name)).unwrap();
        refused(&with(&format!("{name}es")), &["no place for", name]);
    }
}

#[test]
fn every_tensor_is_needed_and_prefixes_are_not() {
    for (case, prefix) in FAMILIES {
        let names: Vec<String> = Folder::golden(case).tensors.keys().cloned().collect();
        for name in &names {
            let folder = Folder::golden(case).edit(|tensors| drop(tensors.remove(name)));
            assert!(matches!(refused(&folder, &["missing"]), LoadError::MissingTensor { .. }), "{case}: {name}");
        }
        let bare = Folder::golden(case).edit(|tensors| {
            let renamed = std::mem::take(tensors).into_iter();
            tensors.extend(renamed.map(|(name, tensor)| (name.trim_start_matches(prefix).to_owned(), tensor)));
        });
        try_load(&bare).unwrap();
    }
}

#[test]
fn the_spelling_of_the_authors_of_mpt_is_known() {
    let folder = Folder::golden("mpt").with("architectures", json!(["MPTForCausalLM"]));
    assert_eq!(try_load(&folder).unwrap().architecture, "MptForCausalLM");
}

#[test]
fn the_output_projection_of_gpt_neox_has_two_names() {
    let renamed = Folder::golden("gpt_neox").edit(|tensors| {
        let head = tensors.remove("embed_out.weight").unwrap();
        tensors.insert("lm_head.weight".into(), head);
    });
    try_load(&renamed).unwrap();
}

#[test]
fn falcon_shapes() {
    let shape = |case: &str| {
        let config = config(&Folder::golden(case));
        (config.attention.num_kv_heads, config.block)
    };
    assert_eq!(shape("falcon"), (1, BlockKind::Parallel { shared_norm: true }));
    assert_eq!(shape("falcon_new_decoder"), (2, BlockKind::Parallel { shared_norm: false }));
    assert_eq!(shape("falcon_one_norm"), (1, BlockKind::Parallel { shared_norm: true }));
    assert_eq!(shape("falcon_alibi"), (4, BlockKind::PreNorm));
    let slopes = config(&Folder::golden("falcon_alibi")).attention.alibi_slopes.unwrap();
    assert_eq!(slopes, [0.25, 0.0625, 0.015625, 0.00390625].map(|slope| slope * (1.0 / 8f64.sqrt()) as f32));
}

#[test]
fn what_alibi_models_leave_out() {
    let mpt = |value: Value| config(&Folder::golden("mpt_clip").with("attn_config", value)).attention;
    assert_eq!(mpt(json!({})).alibi_slopes, Some(vec![0.25, 0.0625, 0.015625, 0.00390625]));
    assert_eq!(mpt(attention("alibi_bias_max", json!(4))).alibi_slopes, Some(vec![0.5, 0.25, 0.125, 0.0625]));
    assert_eq!(mpt(attention("clip_qkv", json!(6.0))).clip_qkv, Some(6.0));
    assert_eq!(mpt(attention("clip_qkv", json!(0))).clip_qkv, None);
    assert_eq!(config(&Folder::golden("bloom").without("seq_length")).max_model_len, 2048);
}
