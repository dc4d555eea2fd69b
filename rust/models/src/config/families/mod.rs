//! One function per family: its `config.json` fields, and its defaults where they are absent.

mod albert;
mod alibi;
mod bert;
mod bloom;
mod cohere;
mod deberta;
mod deepseek;
mod distilbert;
mod ernie;
mod falcon;
mod gemma;
mod gemma4;
mod glm;
mod gpt2;
mod gpt_neox;
mod gpt_oss;
mod gptj;
mod granite;
mod layer_norm;
mod llama;
mod modernbert;
mod moe;
mod mpnet;
mod mpt;
mod nomic_bert;
mod olmo;
mod opt;
mod phi;
mod phi3;
mod rotary;
mod smollm3;
mod stablelm;
mod starcoder2;

use rustllm_ops::{Activation, DType};
use serde_json::Value;

use super::encoder::{Biases, EncoderConfig, Positions, SharedLayers};
use super::fields::Fields;
use super::{AttentionConfig, BlockKind, FeedForwardConfig, LayerConfig, Multipliers, NormConfig};
use crate::pooler::Reduction;
use crate::{LoadError, ModelConfig};
pub(crate) use albert::albert;
pub(crate) use bert::{bert, electra, roberta};
pub(crate) use bloom::bloom;
pub(crate) use cohere::{cohere, cohere2};
pub(crate) use deberta::deberta_v2;
pub(crate) use deepseek::{deepseek_v2, deepseek_v3};
pub(crate) use distilbert::distilbert;
pub(crate) use ernie::ernie4_5;
pub(crate) use falcon::falcon;
pub(crate) use gemma::{gemma, gemma2, gemma3, gemma3_text_of_images};
pub(crate) use gemma4::{gemma4, gemma4_text_of_media, gemma4_unified, gemma4_unified_text_of_media};
pub(crate) use glm::glm;
pub(crate) use gpt_neox::gpt_neox;
pub(crate) use gpt_oss::gpt_oss;
pub(crate) use gpt2::{gpt_bigcode, gpt2};
pub(crate) use gptj::{codegen, gptj};
pub(crate) use granite::granite;
pub(crate) use llama::{arcee, llama, mistral, qwen2, qwen3};
pub(crate) use modernbert::modernbert;
pub(crate) use moe::{mixtral, olmoe, qwen2_moe, qwen3_moe};
pub(crate) use mpnet::mpnet;
pub(crate) use mpt::mpt;
pub(crate) use nomic_bert::nomic_bert;
pub(crate) use olmo::{olmo2, olmo3};
pub(crate) use opt::opt;
pub(crate) use phi::phi;
pub(crate) use phi3::phi3;
pub(crate) use smollm3::smollm3;
pub(crate) use stablelm::stablelm;
pub(crate) use starcoder2::starcoder2;

pub(crate) type Result<T> = std::result::Result<T, LoadError>;

/// More layers, heads or elements than any model has; a value past it is a broken file.
const MAX_LAYERS: usize = 10_000;
const MAX_HEADS: usize = 65_536;
pub(crate) const MAX_WIDTH: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 31;
pub(in crate::config) const MAX_POSITIONS: usize = i32::MAX as usize;
const MAX_TYPES: usize = 65_536;
pub(crate) const MAX_LABELS: usize = 1 << 24;

/// Fields of other families: absent, null, false, zero or empty, they leave the computation as it is here.
const SWITCHES: [&str; 34] = [
    "quantization_config",
    "compression_config",
    "qk_layernorm",
    "use_bias",
    "use_qkv_bias",
    "use_sliding_window",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "query_pre_attn_scalar",
    "attention_multiplier",
    "attention_sinks",
    "attention_chunk_size",
    "attn_temperature_tuning",
    "dual_chunk_attention_config",
    "use_bidirectional_attention",
    "add_cross_attention",
    "is_encoder_decoder",
    "alibi",
    "clip_qkv",
    "parallel_attn",
    "use_parallel_residual",
    "use_qk_norm",
    "no_rope_layers",
    "no_rope_layer_interval",
    "rope_interleave",
    "rope_interleaved",
    "use_mrope",
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
    "kv_lora_rank",
    "scale_depth",
    "block_configs",
    "pruned_heads",
];

/// Factors of other families: absent, null or 1, they leave the computation as it is here.
const FACTORS: [&str; 7] = [
    "partial_rotary_factor",
    "rotary_pct",
    "logit_scale",
    "logits_scaling",
    "embedding_multiplier",
    "residual_multiplier",
    "scale_emb",
];

/// Refuses what the family neither knows nor may ignore: the fields above but those it `implements`, and its `own` that other
/// families have.
fn refuse_unless_neutral(fields: &Fields, architecture: &str, implements: &[&str], own: &[&str]) -> Result<()> {
    let switched = |name: &&str| match fields.get(name) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    };
    let scaled = |name: &&str| fields.get(name).is_some_and(|value| value.as_f64() != Some(1.0));
    let unknown = |name: &&&str| !implements.contains(name);
    let switch = SWITCHES.iter().filter(unknown).chain(own).find(|name| switched(name));
    match switch.or_else(|| FACTORS.iter().filter(unknown).find(|name| scaled(name))) {
        Some(name) => Err(fields.unsupported(name, architecture)),
        None => Ok(()),
    }
}

/// What families read under names of their own.
struct Decoder {
    hidden_size: usize,
    num_layers: usize,
    /// Longest sequence, or the context a rotary model was configured for.
    positions: usize,
    attention: AttentionConfig,
    feed_forward: FeedForwardConfig,
    norm: NormConfig,
    /// Whether the output projection is the embedding where the file does not say.
    tie_word_embeddings: bool,
}

impl Decoder {
    /// Adds what all families read alike: a decoder of layers all alike, one part after the other, without rotary positions.
    fn read(self, fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
        let attention_scale = scale_of(self.attention.head_dim as f64);
        Ok(ModelConfig {
            architecture,
            vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
            hidden_size: self.hidden_size,
            embedding_size: self.hidden_size,
            block: BlockKind::PreNorm,
            attention: self.attention,
            feed_forward: self.feed_forward,
            norm: self.norm,
            layers: vec![LayerConfig::new(attention_scale); self.num_layers],
            per_layer_input: None,
            multipliers: Multipliers::default(),
            moe: None,
            logit_soft_cap: None,
            tie_word_embeddings: fields.flag("tie_word_embeddings", self.tie_word_embeddings)?,
            max_position_embeddings: self.positions,
            max_model_len: self.positions,
            fp8: None,
            dtype: dtype(fields)?,
            eos_token_ids: fields.token_ids("eos_token_id")?,
        })
    }
}

/// The names of an encoder's sizes.
struct EncoderSizes {
    hidden: &'static str,
    layers: &'static str,
    heads: &'static str,
    positions: &'static str,
}

impl EncoderSizes {
    /// Reads them, and what all families read alike: BERT without segments, with the defaults of its other fields.
    fn read(&self, fields: &Fields) -> Result<EncoderConfig> {
        let hidden_size = fields.size(self.hidden, 1..=MAX_WIDTH)?;
        let num_layers = fields.size(self.layers, 1..=MAX_LAYERS)?;
        let num_heads = fields.size(self.heads, 1..=MAX_HEADS)?;
        let positions = fields.size(self.positions, 1..=MAX_POSITIONS)?;
        Ok(EncoderConfig {
            vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
            embedding_size: hidden_size,
            hidden_size,
            intermediate_size: 4 * hidden_size,
            num_layers,
            num_heads,
            head_dim: divide(fields, self.hidden, hidden_size, self.heads, num_heads)?,
            hidden_act: Activation::Gelu,
            norm_eps: 1e-12,
            positions: Some(Positions::Absolute),
            max_position_embeddings: positions,
            type_vocab_size: 0,
            rope: None,
            distances: None,
            convolution: None,
            local: None,
            shared: SharedLayers { groups: num_layers, layers: 1 },
            biases: Biases::ALL,
            classifier_pooling: Reduction::Cls,
            classifier_act: Activation::Tanh,
            max_model_len: positions,
            dtype: dtype(fields)?,
        })
    }
}

/// Refuses what is switched off of `names`: such a model is not here.
fn refuse_unless_on(fields: &Fields, architecture: &str, names: &[&str]) -> Result<()> {
    for name in names {
        if !fields.flag(name, true)? {
            return Err(fields.unsupported(name, architecture));
        }
    }
    Ok(())
}

/// `1 / sqrt(width)`.
fn scale_of(width: f64) -> f32 {
    (1.0 / width.sqrt()) as f32
}

/// `dividend / divisor`, which must come out even.
fn divide(fields: &Fields, name: &str, dividend: usize, by: &str, divisor: usize) -> Result<usize> {
    if dividend.is_multiple_of(divisor) {
        return Ok(dividend / divisor);
    }
    Err(fields.invalid(name, format!("divisible by {by} ({divisor})")))
}

fn epsilon(fields: &Fields, name: &str, default: f64) -> Result<f32> {
    if fields.get(name).is_none() {
        return Ok(default as f32);
    }
    let in_range = |eps: f64| eps as f32 > 0.0 && eps <= 1.0;
    Ok(fields.number(name, "a number above 0, at most 1", in_range)? as f32)
}

fn activation(fields: &Fields, name: &str, default: &str) -> Result<Activation> {
    match fields.text(name)?.unwrap_or(default) {
        "silu" | "swish" => Ok(Activation::Silu),
        "gelu" | "gelu_python" => Ok(Activation::Gelu),
        "gelu_new" | "gelu_fast" | "gelu_pytorch_tanh" => Ok(Activation::GeluTanh),
        "relu" => Ok(Activation::Relu),
        "relu2" => Ok(Activation::ReluSquared),
        "tanh" => Ok(Activation::Tanh),
        _ => {
            let allowed =
                "one of silu, swish, gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, relu, relu2, tanh";
            Err(fields.invalid(name, allowed))
        }
    }
}

/// The checkpoint's element type: `dtype` (transformers 5) or `torch_dtype` (transformers 4).
pub(crate) fn dtype(fields: &Fields) -> Result<Option<DType>> {
    let name = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let parse = |text: &str| text.strip_prefix("torch.").unwrap_or(text).parse();
    fields.text(name)?.map(parse).transpose().map_err(|_: String| fields.invalid(name, "float32, float16 or bfloat16"))
}
