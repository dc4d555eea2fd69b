//! Writes small model folders for tests to break.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// One tensor as it will stand in the file.
#[derive(Clone)]
pub struct TestTensor {
    /// Safetensors' name of the element type.
    pub dtype: String,
    /// Its dimensions.
    pub shape: Vec<usize>,
    /// Its elements.
    pub bytes: Vec<u8>,
}

impl TestTensor {
    /// Small numbers that differ from each other.
    pub fn f32(shape: &[usize]) -> Self {
        let len: usize = shape.iter().product();
        let bytes = (0..len).flat_map(|i| ((i % 13) as f32 * 0.01 - 0.05).to_le_bytes()).collect();
        Self { dtype: "F32".into(), shape: shape.into(), bytes }
    }
}

/// A model folder on disk, rewritten by every change.
pub struct Folder {
    dir: TempDir,
    config: Map<String, Value>,
    pub tensors: BTreeMap<String, TestTensor>,
}

/// The bytes of a safetensors file.
pub fn safetensors(tensors: &BTreeMap<String, TestTensor>) -> Vec<u8> {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend(&tensor.bytes);
        let entry = json!({"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(name.clone(), entry);
    }
    with_header(&Value::Object(header).to_string(), &data)
}

/// A safetensors file of any header and data.
pub fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

impl Folder {
    /// Two layers of width 16, 4 query and 2 key-value heads, 24 tokens, 32 positions.
    pub fn llama() -> Self {
        let mut shapes = vec![
            ("lm_head".to_owned(), vec![24, 16]),
            ("model.embed_tokens".to_owned(), vec![24, 16]),
            ("model.norm".to_owned(), vec![16]),
        ];
        for layer in 0..2 {
            for (name, shape) in [
                ("input_layernorm", vec![16]),
                ("post_attention_layernorm", vec![16]),
                ("self_attn.q_proj", vec![16, 16]),
                ("self_attn.k_proj", vec![8, 16]),
                ("self_attn.v_proj", vec![8, 16]),
                ("self_attn.o_proj", vec![16, 16]),
                ("mlp.gate_proj", vec![20, 16]),
                ("mlp.up_proj", vec![20, 16]),
                ("mlp.down_proj", vec![16, 20]),
            ] {
                shapes.push((format!("model.layers.{layer}.{name}"), shape));
            }
        }
        let tensors = shapes.iter().map(|(name, shape)| (format!("{name}.weight"), TestTensor::f32(shape)));
        let config = json!({
            "architectures": ["LlamaForCausalLM"], "hidden_size": 16, "intermediate_size": 20,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 24,
            "max_position_embeddings": 32, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
            "eos_token_id": 2,
        });
        Self::new(config, tensors.collect())
    }

    /// One layer of width 8, 2 heads, 12 tokens, 16 positions.
    pub fn gpt2() -> Self {
        let mut tensors = BTreeMap::new();
        tensors.insert("transformer.wte.weight".into(), TestTensor::f32(&[12, 8]));
        tensors.insert("transformer.wpe.weight".into(), TestTensor::f32(&[16, 8]));
        for (name, weight, bias) in [
            ("h.0.ln_1", vec![8], 8),
            ("h.0.attn.c_attn", vec![8, 24], 24),
            ("h.0.attn.c_proj", vec![8, 8], 8),
            ("h.0.ln_2", vec![8], 8),
            ("h.0.mlp.c_fc", vec![8, 32], 32),
            ("h.0.mlp.c_proj", vec![32, 8], 8),
            ("ln_f", vec![8], 8),
        ] {
            tensors.insert(format!("transformer.{name}.weight"), TestTensor::f32(&weight));
            tensors.insert(format!("transformer.{name}.bias"), TestTensor::f32(&[bias]));
        }
        let config = json!({
            "architectures": ["GPT2LMHeadModel"], "n_embd": 8, "n_layer": 1, "n_head": 2, "vocab_size": 12,
            "n_positions": 16,
        });
        Self::new(config, tensors)
    }

    /// A copy of a folder of `tests/goldens`.
    pub fn golden(case: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens").join(case);
        let config = serde_json::from_slice(&fs::read(folder.join("config.json")).unwrap()).unwrap();
        let weights = fs::read(folder.join("model.safetensors")).unwrap();
        let tensor = |view: TensorView<'_>| TestTensor {
            dtype: view.dtype().to_string(),
            shape: view.shape().to_vec(),
            bytes: view.data().to_vec(),
        };
        let tensors = SafeTensors::deserialize(&weights).unwrap().tensors().into_iter();
        Self::new(config, tensors.map(|(name, view)| (name, tensor(view))).collect())
    }

    fn new(config: Value, tensors: BTreeMap<String, TestTensor>) -> Self {
        let Value::Object(config) = config else { panic!("a configuration is an object") };
        let folder = Self { dir: tempfile::tempdir().unwrap(), config, tensors };
        folder.write_config();
        folder.write_tensors();
        folder
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The folder with a field of `config.json` set.
    pub fn with(mut self, field: &str, value: Value) -> Self {
        self.config.insert(field.into(), value);
        self.write_config();
        self
    }

    /// The folder without a field of `config.json`.
    pub fn without(mut self, field: &str) -> Self {
        self.config.remove(field);
        self.write_config();
        self
    }

    /// The folder with its tensors changed.
    pub fn edit(mut self, change: impl FnOnce(&mut BTreeMap<String, TestTensor>)) -> Self {
        change(&mut self.tensors);
        self.write_tensors();
        self
    }

    /// The folder with zeros of another element type for tensors.
    pub fn converted(self, dtype: &str) -> Self {
        self.edit(|tensors| {
            for tensor in tensors.values_mut() {
                let len: usize = tensor.shape.iter().product();
                *tensor = TestTensor { dtype: dtype.into(), shape: tensor.shape.clone(), bytes: vec![0; 2 * len] };
            }
        })
    }

    /// Replaces the weights by any bytes.
    pub fn write_weights(&self, bytes: &[u8]) {
        fs::write(self.path().join("model.safetensors"), bytes).unwrap();
    }

    fn write_config(&self) {
        let text = serde_json::to_string_pretty(&self.config).unwrap();
        fs::write(self.path().join("config.json"), text).unwrap();
    }

    fn write_tensors(&self) {
        self.write_weights(&safetensors(&self.tensors));
    }
}
