//! Broken weights: truncated, corrupt, misnamed, misshapen, misplaced. Each a typed error naming the cause.

use std::collections::BTreeMap;
use std::fs;

use rustllm_models::LoadError;
use serde_json::{Value, json};

use crate::folder::{Folder, TestTensor, safetensors, with_header};
use crate::{refused, try_load};

const Q_PROJ: &str = "model.layers.1.self_attn.q_proj.weight";

#[test]
fn truncated_anywhere() {
    let folder = Folder::llama();
    let whole = safetensors(&folder.tensors);
    let lengths = (0..64).chain((64..whole.len()).step_by(97)).chain([whole.len() - 1]);
    for length in lengths {
        folder.write_weights(&whole[..length]);
        let error = refused(&folder, &["model.safetensors", "truncated or corrupt"]);
        assert!(matches!(error, LoadError::Checkpoint { .. }));
    }
    folder.write_weights(&[whole.as_slice(), &[0]].concat());
    refused(&folder, &["model.safetensors", "truncated or corrupt"]);
}

/// A flipped header bit gives an error, or a header that says the same with other spaces.
#[test]
fn flipped_header_bits() {
    let folder = Folder::llama();
    let whole = safetensors(&folder.tensors);
    let header_len = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let mut refusals = 0;
    for at in (0..8).chain((8..8 + header_len).step_by(11)) {
        for bit in [0, 3, 5, 7] {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << bit;
            folder.write_weights(&flipped);
            refusals += usize::from(try_load(&folder).is_err());
        }
    }
    assert!(refusals > header_len / 11, "{refusals} refusals");
}

#[test]
fn headers_that_lie() {
    let folder = Folder::llama();
    let entry = |start: usize, end: usize| json!({"dtype": "F32", "shape": [2], "data_offsets": [start, end]});
    let check = |header: &str, part: &str| {
        folder.write_weights(&with_header(header, &[0; 16]));
        assert!(matches!(refused(&folder, &["model.safetensors", part]), LoadError::Checkpoint { .. }));
    };
    check(&json!({"a": entry(0, 8), "b": entry(4, 12)}).to_string(), "invalid offset for tensor `b`");
    check(&json!({"a": entry(0, 8), "b": entry(12, 20)}).to_string(), "invalid offset for tensor `b`");
    check(&json!({"a": entry(0, 8)}).to_string(), "not fully covered");
    check(&json!({"a": entry(8, 0)}).to_string(), "invalid offset for tensor `a`");
    check(&json!({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}).to_string(), "invalid shape");
    check(&json!({"a": {"dtype": "F99", "shape": [4], "data_offsets": [0, 16]}}).to_string(), "F99");
    let huge = json!({"a": {"dtype": "F32", "shape": [u64::MAX, 8], "data_offsets": [0, 16]}});
    check(&huge.to_string(), "overflow");
    let twice = format!("{{\"a\":{0},\"a\":{0},\"b\":{1}}}", entry(0, 8), entry(8, 16));
    check(&twice, "the tensor a is there twice");
    check("[]", "header");
    folder.write_weights(&u64::MAX.to_le_bytes());
    refused(&folder, &["header too large"]);
    folder.write_weights(&(1u64 << 26).to_le_bytes());
    refused(&folder, &["invalid header length"]);
}

#[test]
fn missing_and_unexpected_tensors() {
    for name in Folder::llama().tensors.keys() {
        let error = refused(&Folder::llama().edit(|tensors| drop(tensors.remove(name))), &[name, "missing"]);
        assert!(matches!(error, LoadError::MissingTensor { .. }));
    }
    let extra = "model.layers.0.self_attn.q_norm.weight";
    let with_extra =
        |name: &str| Folder::llama().edit(|tensors| drop(tensors.insert(name.into(), TestTensor::f32(&[4]))));
    let error = refused(&with_extra(extra), &["no place for", extra, "LlamaForCausalLM"]);
    assert!(matches!(error, LoadError::UnexpectedTensors { .. }));
    try_load(&with_extra("model.layers.0.self_attn.rotary_emb.inv_freq")).unwrap();
    // A third layer that the configuration does not have.
    refused(&Folder::llama().with("num_hidden_layers", json!(1)), &["no place for", "model.layers.1."]);
    refused(&Folder::llama().with("num_hidden_layers", json!(3)), &["model.layers.2.", "missing"]);
}

#[test]
fn wrong_shapes_name_both() {
    let shaped = |name: &str, shape: &[usize]| {
        Folder::llama().edit(|tensors| drop(tensors.insert(name.into(), TestTensor::f32(shape))))
    };
    refused(&shaped(Q_PROJ, &[16, 15]), &[Q_PROJ, "[16, 15]", "expected [16, 16]"]);
    refused(&shaped(Q_PROJ, &[256]), &[Q_PROJ, "[256]"]);
    refused(&shaped(Q_PROJ, &[0, 16]), &[Q_PROJ, "[0, 16]"]);
    refused(&shaped("model.norm.weight", &[1, 16]), &["model.norm.weight", "expected [16]"]);
    refused(&shaped("lm_head.weight", &[23, 16]), &["lm_head.weight", "[23, 16]"]);
    refused(&Folder::llama().with("head_dim", json!(1024)), &["q_proj.weight", "expected [4096, 16]"]);
    refused(&Folder::gpt2().with("n_inner", json!(16)), &["mlp.c_fc.weight", "[8, 32]", "expected [8, 16]"]);
    refused(&Folder::gpt2().with("n_positions", json!(2_000_000)), &["transformer.wpe.weight", "[2000000, 8]"]);
}

#[test]
fn wrong_dtypes() {
    for (dtype, size) in [("I8", 1), ("F64", 8), ("I64", 8), ("F8_E4M3", 1), ("BOOL", 1)] {
        let folder = Folder::llama().edit(|tensors| {
            let bytes = vec![0; 256 * size];
            tensors.insert(Q_PROJ.into(), TestTensor { dtype: dtype.into(), shape: vec![16, 16], bytes });
        });
        let error = refused(&folder, &[Q_PROJ, dtype, "F32, F16 or BF16"]);
        assert!(matches!(error, LoadError::TensorDType { .. }));
    }
}

#[test]
fn weights_in_other_formats_are_not_read() {
    let folder = Folder::llama();
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    assert!(matches!(refused(&folder, &["no *.safetensors weights"]), LoadError::NoWeights { .. }));
    fs::write(folder.path().join("pytorch_model.bin"), "a pickle").unwrap();
    refused(&folder, &["pytorch_model.bin is not read", "save_pretrained"]);
    fs::create_dir(folder.path().join("model.safetensors")).unwrap();
    refused(&folder, &["model.safetensors", "not a regular file"]);
}

/// The folder with its tensors in two files and an index.
fn sharded() -> (Folder, Value) {
    let folder = Folder::llama();
    let mut shards = [BTreeMap::new(), BTreeMap::new()];
    let mut weight_map = json!({});
    for (i, (name, tensor)) in folder.tensors.iter().enumerate() {
        shards[i % 2].insert(name.clone(), tensor.clone());
        weight_map[name] = json!(format!("model-{}.safetensors", i % 2));
    }
    for (i, shard) in shards.iter().enumerate() {
        fs::write(folder.path().join(format!("model-{i}.safetensors")), safetensors(shard)).unwrap();
    }
    fs::remove_file(folder.path().join("model.safetensors")).unwrap();
    (folder, weight_map)
}

fn write_index(folder: &Folder, weight_map: &Value) {
    let index = json!({"metadata": {"total_size": 1}, "weight_map": weight_map});
    fs::write(folder.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
}

#[test]
fn sharded_index() {
    let (folder, weight_map) = sharded();
    try_load(&folder).unwrap();
    write_index(&folder, &weight_map);
    try_load(&folder).unwrap();
    let outside = folder.path().parent().unwrap().join("rustllm_outside.safetensors");
    let outside = outside.to_str().unwrap().to_owned();
    for entry in
        ["../model-0.safetensors", outside.as_str(), "sub/model-0.safetensors", "..\\m.safetensors", "evil.bin", ""]
    {
        let mut map = weight_map.clone();
        map[Q_PROJ] = json!(entry);
        write_index(&folder, &map);
        let error = refused(&folder, &["index.json", Q_PROJ, "the model's own folder"]);
        assert!(matches!(error, LoadError::IndexEntry { .. }));
    }
    let broken = |value: Value, parts: &[&str]| {
        let mut map = weight_map.clone();
        map[Q_PROJ] = value;
        write_index(&folder, &map);
        refused(&folder, parts);
    };
    broken(json!("model-9.safetensors"), &[Q_PROJ, "model-9.safetensors", "no such file"]);
    broken(json!(3), &["weight_map.", Q_PROJ, "must be a string"]);
    let other = if weight_map[Q_PROJ] == "model-0.safetensors" { "model-1.safetensors" } else { "model-0.safetensors" };
    broken(json!(other), &[Q_PROJ, other, "no such tensor"]);
    write_index(&folder, &json!({}));
    refused(&folder, &["weight_map", "missing"]);
}

#[test]
fn a_tensor_in_two_shards() {
    let (folder, weight_map) = sharded();
    let first = fs::read(folder.path().join("model-0.safetensors")).unwrap();
    fs::write(folder.path().join("model-2.safetensors"), first).unwrap();
    assert!(matches!(refused(&folder, &["in another weights file too"]), LoadError::Checkpoint { .. }));
    // An index says which files count, unless there is the one file.
    write_index(&folder, &weight_map);
    try_load(&folder).unwrap();
}

#[test]
fn tied_embeddings() {
    let tied = |change: fn(&mut BTreeMap<String, TestTensor>)| {
        try_load(&Folder::llama().with("tie_word_embeddings", json!(true)).edit(change)).unwrap().num_parameters
    };
    let table = 24 * 16;
    let shared = tied(|tensors| drop(tensors.remove("lm_head.weight")));
    assert_eq!(try_load(&Folder::llama()).unwrap().num_parameters, shared + table);
    // The same elements twice in the file are one table; different ones were not tied after all.
    assert_eq!(tied(|_| ()), shared);
    let different = tied(|tensors| tensors.get_mut("lm_head.weight").unwrap().bytes[0] ^= 1);
    assert_eq!(different, shared + table);
}

#[test]
fn checkpoints_of_the_base_model_have_no_prefix() {
    let bare = |folder: Folder, prefix: &str| {
        folder.edit(|tensors| {
            let renamed = std::mem::take(tensors).into_iter();
            tensors.extend(renamed.map(|(name, tensor)| (name.trim_start_matches(prefix).to_owned(), tensor)));
        })
    };
    try_load(&bare(Folder::llama(), "model.")).unwrap();
    let gpt2 = bare(Folder::gpt2(), "transformer.");
    try_load(&gpt2).unwrap();
    let mask = |tensors: &mut BTreeMap<String, TestTensor>| {
        tensors.insert("h.0.attn.bias".into(), TestTensor::f32(&[1, 1, 16, 16]));
    };
    try_load(&gpt2.edit(mask)).unwrap();
}
