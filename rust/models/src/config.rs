//! `config.json`, read once into a [`ModelConfig`] that the model files can trust.
//!
//! ```text
//!   config.json + hf_overrides ──► Fields ──► families::llama, ::gpt2 ... ──► ModelConfig
//!                                  typed      the only place that knows       validated, one vocabulary
//!                                  access     Hugging Face's field names      for every family
//! ```
//!
//! A value is checked before anything as large as it says is allocated, and a field that changes the computation in a
//! way that is not implemented is refused: a model that loads computes what its authors meant.

pub(crate) mod encoder;
pub(crate) mod families;
pub(crate) mod fields;
mod rope;

use std::path::Path;

use rustllm_ops::{Activation, AttentionParams, DType};
use serde_json::{Map, Value};

use crate::LoadError;
use crate::registry::{self, Architecture, Found};
use fields::Fields;

pub use rope::RopeConfig;

/// What a decoder computes, in one vocabulary for all families.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The entry of `architectures` that the registry knows.
    pub architecture: &'static str,
    /// Rows of the embedding and columns of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width inside a feed-forward layer.
    pub intermediate_size: usize,
    /// Query heads of a layer.
    pub num_heads: usize,
    /// Key/value heads of a layer; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// What differs from layer to layer, one entry each.
    pub layers: Vec<LayerConfig>,
    /// Non-linearity of the feed-forward layers.
    pub hidden_act: Activation,
    /// Added to the variance under a norm's root.
    pub norm_eps: f32,
    /// Rotary positions, if the model has them.
    pub rope: Option<RopeConfig>,
    /// Whether each query and key head is normed before it rotates.
    pub qk_norm: bool,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether attention's output projection has a bias.
    pub attention_output_bias: bool,
    /// Whether the feed-forward projections have biases.
    pub mlp_bias: bool,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Rows of a learned position table, or the context a rotary model was configured for.
    pub max_position_embeddings: usize,
    /// Longest sequence, prompt and output: what the positions reach, or less if the user asked for less.
    pub max_model_len: usize,
    /// Element type the checkpoint says it has.
    pub dtype: Option<DType>,
    /// Tokens that end a sequence: `generation_config.json`'s, else `config.json`'s.
    pub eos_token_ids: Vec<u32>,
}

/// What one attention layer does differently from the next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerConfig {
    /// Factor on the attention scores.
    pub attention_scale: f32,
    /// Positions a token sees, itself included; all before it when `None`.
    pub sliding_window: Option<usize>,
}

impl ModelConfig {
    /// Reads and validates `dir/config.json` with `overrides` put over its fields, and the end-of-sequence ids of
    /// `dir/generation_config.json`.
    ///
    /// # Errors
    /// [`LoadError`] naming the file, the field, its value and what is allowed.
    pub fn from_dir(dir: &Path, overrides: &Map<String, Value>) -> Result<Self, LoadError> {
        let fields = read_fields(dir, overrides)?;
        match find_architecture(&fields)? {
            (_, Found::Decoder(architecture, _)) => Self::read(dir, &fields, architecture),
            (name, Found::Encoder(..)) => Err(fields.unsupported("architectures", name)),
        }
    }

    /// Reads the fields of a `config.json` as `architecture` does.
    pub(crate) fn read(dir: &Path, fields: &Fields, architecture: &'static Architecture) -> Result<Self, LoadError> {
        let mut config = (architecture.config)(fields, architecture.name)?;
        if let Some(generation) = Fields::read(&dir.join("generation_config.json"))? {
            let ids = generation.token_ids("eos_token_id")?;
            if !ids.is_empty() {
                config.eos_token_ids = ids;
            }
        }
        Ok(config)
    }

    /// Attention layers of the model.
    pub fn num_layers(&self) -> usize {
        self.layers.len()
    }

    /// Columns of all query heads.
    pub fn q_size(&self) -> usize {
        self.num_heads * self.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.num_kv_heads * self.head_dim
    }

    /// What layer `layer`'s attention computes.
    pub fn attention_params(&self, layer: usize) -> AttentionParams {
        AttentionParams {
            num_heads: self.num_heads,
            num_kv_heads: self.num_kv_heads,
            head_dim: self.head_dim,
            scale: self.layers[layer].attention_scale,
            sliding_window: self.layers[layer].sliding_window,
        }
    }
}

/// `dir/config.json` with `overrides` put over its fields.
pub(crate) fn read_fields(dir: &Path, overrides: &Map<String, Value>) -> Result<Fields, LoadError> {
    let mut fields = Fields::read_required(&dir.join("config.json"))?;
    fields.apply(overrides);
    Ok(fields)
}

/// The supported one of the file's `architectures`.
pub(crate) fn find_architecture(fields: &Fields) -> Result<(&str, Found), LoadError> {
    let found = fields.texts("architectures")?.ok_or_else(|| fields.missing("architectures"))?;
    registry::find(&found).ok_or_else(|| LoadError::UnsupportedArchitecture {
        path: fields.path().into(),
        found: found.into_iter().map(str::to_owned).collect(),
        supported: registry::supported_architectures(),
    })
}
