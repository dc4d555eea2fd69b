//! One function per family: its `config.json` fields, and its defaults where they are absent.

use rustllm_ops::{Activation, DType, RopeScaling};
use serde_json::Value;

use super::fields::Fields;
use super::{LayerConfig, ModelConfig, RopeConfig};
use crate::LoadError;

type Result<T> = std::result::Result<T, LoadError>;

/// More layers, heads or elements than any model has; a value past it is a broken file.
const MAX_LAYERS: usize = 10_000;
const MAX_HEADS: usize = 65_536;
const MAX_WIDTH: usize = 1 << 24;
const MAX_VOCAB: usize = 1 << 31;
const MAX_POSITIONS: usize = i32::MAX as usize;

/// Fields of other families: absent, null, false, zero or empty, they leave the computation as it is here.
const SWITCHES: [&str; 30] = [
    "quantization_config",
    "compression_config",
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

/// Llama: biases by switch, rotary positions over the whole head.
pub(crate) fn llama(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let bias = fields.flag("attention_bias", false)?;
    refuse_unless_neutral(fields, architecture, &["sliding_window"])?;
    let config = ModelConfig {
        qkv_bias: bias,
        attention_output_bias: bias,
        mlp_bias: fields.flag("mlp_bias", false)?,
        ..rotary_decoder(fields, architecture, None)?
    };
    agree_with_layer_types(fields, config)
}

/// Mistral: Llama without biases, every layer with a sliding window unless it is null.
pub(crate) fn mistral(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["attention_bias", "mlp_bias"])?;
    let mut config = rotary_decoder(fields, architecture, None)?;
    let window = match fields.optional_size("sliding_window", 1..=MAX_POSITIONS)? {
        None if !fields.has("sliding_window") => Some(4096),
        window => window,
    };
    config.layers.iter_mut().for_each(|layer| layer.sliding_window = window);
    agree_with_layer_types(fields, config)
}

/// Qwen2: biases on the query, key and value projections only.
pub(crate) fn qwen2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &["mlp_bias"])?;
    let config = ModelConfig { qkv_bias: true, ..rotary_decoder(fields, architecture, None)? };
    qwen_windows(fields, config)
}

/// Qwen3: normed query and key heads of 128 unless the file says otherwise, biases by switch.
pub(crate) fn qwen3(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    let bias = fields.flag("attention_bias", false)?;
    refuse_unless_neutral(fields, architecture, &["mlp_bias"])?;
    let config = ModelConfig {
        qk_norm: true,
        qkv_bias: bias,
        attention_output_bias: bias,
        ..rotary_decoder(fields, architecture, Some(128))?
    };
    qwen_windows(fields, config)
}

/// GPT-2: learned positions, layer norms, biases everywhere.
pub(crate) fn gpt2(fields: &Fields, architecture: &'static str) -> Result<ModelConfig> {
    refuse_unless_neutral(fields, architecture, &[])?;
    let hidden_size = fields.size("n_embd", 1..=MAX_WIDTH)?;
    let num_heads = fields.size("n_head", 1..=MAX_HEADS)?;
    let head_dim = divide(fields, "n_embd", hidden_size, "n_head", num_heads)?;
    let num_layers = fields.size("n_layer", 1..=MAX_LAYERS)?;
    let positions = fields.size("n_positions", 1..=MAX_POSITIONS)?;
    let scale = if fields.flag("scale_attn_weights", true)? { scale_of(head_dim) } else { 1.0 };
    let by_layer = fields.flag("scale_attn_by_inverse_layer_idx", false)?;
    let attention_scale = |layer: usize| if by_layer { scale / (layer + 1) as f32 } else { scale };
    let layer = |layer| LayerConfig { attention_scale: attention_scale(layer), sliding_window: None };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        hidden_size,
        intermediate_size: fields.optional_size("n_inner", 1..=MAX_WIDTH)?.unwrap_or(4 * hidden_size),
        num_heads,
        num_kv_heads: num_heads,
        head_dim,
        layers: (0..num_layers).map(layer).collect(),
        hidden_act: activation(fields, "activation_function", "gelu_new")?,
        norm_eps: epsilon(fields, "layer_norm_epsilon", 1e-5)?,
        rope: None,
        qk_norm: false,
        qkv_bias: true,
        attention_output_bias: true,
        mlp_bias: true,
        tie_word_embeddings: fields.flag("tie_word_embeddings", true)?,
        max_position_embeddings: positions,
        max_model_len: positions,
        dtype: dtype(fields)?,
        eos_token_ids: fields.token_ids("eos_token_id")?,
    })
}

/// What the rotary decoders share: the field names that Llama's configuration set, no biases, no windows.
fn rotary_decoder(fields: &Fields, architecture: &'static str, default_head_dim: Option<usize>) -> Result<ModelConfig> {
    let hidden_size = fields.size("hidden_size", 1..=MAX_WIDTH)?;
    let num_heads = fields.size("num_attention_heads", 1..=MAX_HEADS)?;
    let num_kv_heads = fields.optional_size("num_key_value_heads", 1..=num_heads)?.unwrap_or(num_heads);
    divide(fields, "num_attention_heads", num_heads, "num_key_value_heads", num_kv_heads)?;
    let head_dim = match fields.optional_size("head_dim", 1..=MAX_HEADS)?.or(default_head_dim) {
        Some(head_dim) => head_dim,
        None => divide(fields, "hidden_size", hidden_size, "num_attention_heads", num_heads)?,
    };
    let num_layers = fields.size("num_hidden_layers", 1..=MAX_LAYERS)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    let rope = RopeConfig::read(fields, architecture, head_dim)?;
    let max_model_len = match rope.scaling {
        Some(RopeScaling::Linear { factor }) => (positions as f64 * f64::from(factor)) as usize,
        Some(RopeScaling::Llama3 { .. }) | None => positions,
    };
    let layer = LayerConfig { attention_scale: scale_of(head_dim), sliding_window: None };
    Ok(ModelConfig {
        architecture,
        vocab_size: fields.size("vocab_size", 1..=MAX_VOCAB)?,
        hidden_size,
        intermediate_size: fields.size("intermediate_size", 1..=MAX_WIDTH)?,
        num_heads,
        num_kv_heads,
        head_dim,
        layers: vec![layer; num_layers],
        hidden_act: activation(fields, "hidden_act", "silu")?,
        norm_eps: epsilon(fields, "rms_norm_eps", 1e-6)?,
        rope: Some(rope),
        qk_norm: false,
        qkv_bias: false,
        attention_output_bias: false,
        mlp_bias: false,
        tie_word_embeddings: fields.flag("tie_word_embeddings", false)?,
        max_position_embeddings: positions,
        max_model_len,
        dtype: dtype(fields)?,
        eos_token_ids: fields.token_ids("eos_token_id")?,
    })
}

/// Qwen's windows: none without `use_sliding_window`, else on the layers that `layer_types` names or, where the file has
/// no such list, on those from `max_window_layers` up.
fn qwen_windows(fields: &Fields, mut config: ModelConfig) -> Result<ModelConfig> {
    let window = match fields.flag("use_sliding_window", false)? {
        true => fields.optional_size("sliding_window", 1..=MAX_POSITIONS)?,
        false => None,
    };
    let first = fields.optional_size("max_window_layers", 0..=MAX_LAYERS)?.unwrap_or(28);
    match layer_types(fields, config.num_layers())? {
        Some(windowed) => {
            for (layer, windowed) in config.layers.iter_mut().zip(windowed) {
                layer.sliding_window = window.filter(|_| windowed);
            }
        }
        None => config.layers.iter_mut().skip(first).for_each(|layer| layer.sliding_window = window),
    }
    Ok(config)
}

/// Refuses a `layer_types` that says anything else than what the family computes.
fn agree_with_layer_types(fields: &Fields, config: ModelConfig) -> Result<ModelConfig> {
    let Some(windowed) = layer_types(fields, config.num_layers())? else { return Ok(config) };
    if config.layers.iter().zip(windowed).all(|(layer, windowed)| layer.sliding_window.is_some() == windowed) {
        return Ok(config);
    }
    Err(fields.unsupported("layer_types", config.architecture))
}

/// Which layers `layer_types` gives a sliding window, if the file has the list.
fn layer_types(fields: &Fields, num_layers: usize) -> Result<Option<Vec<bool>>> {
    let Some(types) = fields.texts("layer_types")? else { return Ok(None) };
    let known = ["full_attention", "sliding_attention"];
    if types.len() != num_layers || types.iter().any(|name| !known.contains(name)) {
        let allowed = format!("a list of {num_layers} entries, each full_attention or sliding_attention");
        return Err(fields.invalid("layer_types", allowed));
    }
    Ok(Some(types.iter().map(|name| *name == "sliding_attention").collect()))
}

fn refuse_unless_neutral(fields: &Fields, architecture: &str, more_switches: &[&str]) -> Result<()> {
    let switched = |name: &&str| match fields.get(name) {
        None | Some(Value::Bool(false)) => false,
        Some(Value::Number(number)) => number.as_f64() != Some(0.0),
        Some(Value::Array(list)) => !list.is_empty(),
        Some(Value::Object(map)) => !map.is_empty(),
        Some(_) => true,
    };
    let scaled = |name: &&str| fields.get(name).is_some_and(|value| value.as_f64() != Some(1.0));
    let switch = SWITCHES.iter().chain(more_switches).find(|name| switched(name));
    match switch.or_else(|| FACTORS.iter().find(|name| scaled(name))) {
        Some(name) => Err(fields.unsupported(name, architecture)),
        None => Ok(()),
    }
}

/// `1 / sqrt(head_dim)`.
fn scale_of(head_dim: usize) -> f32 {
    (1.0 / (head_dim as f64).sqrt()) as f32
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
        _ => {
            Err(fields
                .invalid(name, "one of silu, swish, gelu, gelu_python, gelu_new, gelu_fast, gelu_pytorch_tanh, relu"))
        }
    }
}

/// The checkpoint's element type: `dtype` (transformers 5) or `torch_dtype` (transformers 4).
fn dtype(fields: &Fields) -> Result<Option<DType>> {
    let name = if fields.get("dtype").is_some() { "dtype" } else { "torch_dtype" };
    let parse = |text: &str| text.strip_prefix("torch.").unwrap_or(text).parse();
    fields.text(name)?.map(parse).transpose().map_err(|_: String| fields.invalid(name, "float32, float16 or bfloat16"))
}
