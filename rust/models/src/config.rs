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
mod moe;
mod quantization;
mod rope;

use std::path::Path;

use rustllm_ops::{Activation, AttentionParams, DType, KvCacheKind};
use serde_json::{Map, Value};

use crate::LoadError;
use crate::registry::{self, Architecture, Found};
use crate::rope::{RopeConfig, RopeScaling};
use fields::Fields;
pub use moe::{MoeConfig, SharedExpertConfig};
pub use quantization::Fp8Config;

/// What a decoder computes, in one vocabulary for all families.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelConfig {
    /// The entry of `architectures` that the registry knows.
    pub architecture: &'static str,
    /// Rows of the embedding and columns of the logits.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of a token's embedding; projected to and from `hidden_size` where it is another.
    pub embedding_size: usize,
    /// How a layer's attention and feed-forward are put together, where a family's models differ in it.
    pub block: BlockKind,
    /// What all attention layers have in common.
    pub attention: AttentionConfig,
    /// The feed-forward layers.
    pub feed_forward: FeedForwardConfig,
    /// The experts, if some layers are mixtures of them.
    pub moe: Option<MoeConfig>,
    /// The norms.
    pub norm: NormConfig,
    /// What differs from layer to layer, one entry each.
    pub layers: Vec<LayerConfig>,
    /// The inputs that each layer has of its own, if any.
    pub per_layer_input: Option<PerLayerInputConfig>,
    /// Factors between the parts.
    pub multipliers: Multipliers,
    /// What logits are kept below in magnitude, by a tanh.
    pub logit_soft_cap: Option<f32>,
    /// Whether the output projection is the embedding.
    pub tie_word_embeddings: bool,
    /// Rows of a learned position table, or the context a rotary model was configured for.
    pub max_position_embeddings: usize,
    /// Longest sequence, prompt and output: what the positions reach, or less if the user asked for less.
    pub max_model_len: usize,
    /// How weights in FP8 are scaled, if the checkpoint says that it has any.
    pub fp8: Option<Fp8Config>,
    /// Element type the checkpoint says it has.
    pub dtype: Option<DType>,
    /// Tokens that end a sequence: `generation_config.json`'s, else `config.json`'s.
    pub eos_token_ids: Vec<u32>,
}

/// Attention's shape, and what is done to queries, keys and scores.
#[derive(Debug, Clone, PartialEq)]
pub struct AttentionConfig {
    /// Query heads of a layer.
    pub num_heads: usize,
    /// Key/value heads of a layer; divides `num_heads`.
    pub num_kv_heads: usize,
    /// Elements of a head.
    pub head_dim: usize,
    /// Whether the query, key and value projections have biases.
    pub qkv_bias: bool,
    /// Whether the output projection has a bias.
    pub output_bias: bool,
    /// What of queries and keys is normed before it rotates, if anything.
    pub qk_norm: Option<QkNorm>,
    /// What scores are kept below in magnitude, by a tanh.
    pub soft_cap: Option<f32>,
    /// What each query head's scores lose with every position between query and key, if the model has ALiBi.
    pub alibi_slopes: Option<Vec<f32>>,
    /// What queries, keys and values are kept within, in magnitude.
    pub clip_qkv: Option<f32>,
    /// How queries, keys and values are compressed, if they are.
    pub latent: Option<LatentConfig>,
}

/// Sizes of multi-head latent attention. A head is as wide as its keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LatentConfig {
    /// Width of the queries' latent, if they have one.
    pub q_rank: Option<usize>,
    /// Width of the keys' and values' latent.
    pub kv_rank: usize,
    /// Elements of a key that rotate, the same for all heads.
    pub rope_head_dim: usize,
    /// Elements of a value.
    pub v_head_dim: usize,
}

impl AttentionConfig {
    /// Attention over heads as they are projected, without biases.
    pub fn new(num_heads: usize, num_kv_heads: usize, head_dim: usize) -> Self {
        Self {
            num_heads,
            num_kv_heads,
            head_dim,
            qkv_bias: false,
            output_bias: false,
            qk_norm: None,
            soft_cap: None,
            alibi_slopes: None,
            clip_qkv: None,
            latent: None,
        }
    }
}

/// How the attention and the feed-forward of a layer are put together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// One after the other, each on a norm of the stream.
    PreNorm,
    /// One after the other, each followed by a norm of the stream, which then starts anew.
    PostNorm,
    /// Side by side on the stream as it was before the layer.
    Parallel {
        /// Whether one norm serves both; else each has its own.
        shared_norm: bool,
    },
}

/// What a norm of queries and keys is taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QkNorm {
    /// Each head, all with the same weight.
    Head,
    /// All heads of a token together.
    Row,
    /// Each head by mean and variance, with a weight of its own.
    EachHead,
}

/// The feed-forward layers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FeedForwardConfig {
    /// Width inside.
    pub intermediate_size: usize,
    /// Non-linearity.
    pub activation: Activation,
    /// Whether the projections have biases.
    pub bias: bool,
}

/// The norms of a model, all of one kind.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NormConfig {
    /// What is computed.
    pub kind: NormKind,
    /// Added to the variance under the root.
    pub eps: f32,
}

/// What a norm computes from its weight, and its bias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NormKind {
    /// Root mean square (arXiv:1910.07467).
    Rms,
    /// The same, scaled by the weight plus one (Gemma's).
    RmsPlusOne,
    /// Mean and variance (arXiv:1607.06450).
    Layer {
        /// Whether there is a bias.
        bias: bool,
    },
}

/// Factors that a model puts between its parts; 1 changes nothing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Multipliers {
    /// On the embeddings.
    pub embedding: f32,
    /// On what every layer adds to the residual stream.
    pub residual: f32,
    /// On the logits.
    pub logits: f32,
}

impl Default for Multipliers {
    fn default() -> Self {
        Self { embedding: 1.0, residual: 1.0, logits: 1.0 }
    }
}

/// A second table of the tokens, of which each layer reads a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PerLayerInputConfig {
    /// Rows of the table: as many as the embedding has, or more.
    pub vocab_size: usize,
    /// Columns of a layer's part.
    pub size: usize,
}

/// What one attention layer does differently from the next.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerConfig {
    /// Factor on the attention scores.
    pub attention_scale: f32,
    /// Positions a token sees, itself included; all before it when `None`.
    pub sliding_window: Option<usize>,
    /// Rotary positions, if the layer has them.
    pub rope: Option<RopeConfig>,
    /// Key/value heads and elements of a head, where they are others than [`AttentionConfig`] says.
    pub kv_heads: Option<(usize, usize)>,
    /// The earlier layer whose keys and values this one reads, if it has none of its own. Layers that have come first.
    pub kv_source: Option<usize>,
    /// Whether values are the keys as they are before their norm.
    pub keys_are_values: bool,
    /// Width inside the feed-forward layer, where it is another than [`FeedForwardConfig`] says.
    pub intermediate_size: Option<usize>,
}

impl LayerConfig {
    /// A layer that sees all positions and knows none.
    pub fn new(attention_scale: f32) -> Self {
        Self {
            attention_scale,
            sliding_window: None,
            rope: None,
            kv_heads: None,
            kv_source: None,
            keys_are_values: false,
            intermediate_size: None,
        }
    }
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
        let (fields, fp8) = quantization::take_fp8(fields)?;
        let mut config = (architecture.config)(&fields, architecture.name)?;
        config.fp8 = fp8;
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
        self.attention.num_heads * self.attention.head_dim
    }

    /// Columns of all key heads, and of all value heads.
    pub fn kv_size(&self) -> usize {
        self.attention.num_kv_heads * self.attention.head_dim
    }

    /// Longest sequence where the user asks for none: all that the positions reach, but for models that compute short
    /// contexts with other positions than long ones (LongRoPE), the short one. That is vLLM's rule.
    pub fn default_max_model_len(&self) -> usize {
        let short = self.layers.iter().filter_map(|layer| match layer.rope.as_ref()?.scaling {
            Some(RopeScaling::LongRope { original_max_position, .. }) => Some(original_max_position),
            _ => None,
        });
        short.fold(self.max_model_len, usize::min)
    }

    /// What each layer that has keys and values of its own keeps of a token: for ever, where its window reaches past the
    /// longest sequence.
    pub fn kv_cache_kinds(&self) -> Vec<KvCacheKind> {
        let of_layer = |layer: &LayerConfig| {
            let sliding_window = layer.sliding_window.filter(|window| *window < self.max_model_len);
            let (num_kv_heads, head_dim) = self.kv_heads(layer);
            KvCacheKind { sliding_window, num_kv_heads, head_dim }
        };
        self.layers.iter().take_while(|layer| layer.kv_source.is_none()).map(of_layer).collect()
    }

    /// Key/value heads of a layer, and elements of a head.
    fn kv_heads(&self, layer: &LayerConfig) -> (usize, usize) {
        layer.kv_heads.unwrap_or((self.attention.num_kv_heads, self.attention.head_dim))
    }

    /// What layer `layer`'s attention computes.
    pub fn attention_params(&self, layer: usize) -> AttentionParams {
        let AttentionConfig { num_heads, soft_cap, .. } = self.attention;
        let (num_kv_heads, head_dim) = self.kv_heads(&self.layers[layer]);
        AttentionParams {
            scale: self.layers[layer].attention_scale,
            sliding_window: self.layers[layer].sliding_window,
            soft_cap,
            ..AttentionParams::new(num_heads, num_kv_heads, head_dim)
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
