//! Gemma 4 (text): Gemma 3's block with more of everything that may differ between layers: the size of heads, values that are
//! keys, keys and values of an earlier layer, experts beside the feed-forward layer, inputs of each layer's own.

use crate::config::{LayerConfig, MoeConfig, PerLayerInputConfig};
use crate::layers::{
    Attention, Block, ExpertsBeside, PerLayerEmbedding, PerLayerInput, SandwichBlock, SelfAttention, SharedKvAttention,
    SideInputBlock,
};
use crate::llama;
use crate::loader::Loader;
use crate::{LoadError, Model, ModelConfig};

pub(crate) fn build(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    let base = loader.base_model("model", "embed_tokens.weight");
    let inputs = config.per_layer_input.map(|input| per_layer_embedding(&base, config, input)).transpose()?;
    Ok(Box::new(llama::unboxed_decoder(loader, config, block)?.with_layer_inputs(inputs)))
}

/// The text model of a checkpoint that reads images and sound as well.
pub(crate) fn build_text(loader: &Loader<'_>, config: &ModelConfig) -> Result<Box<dyn Model>, LoadError> {
    build(&loader.child("model").child("language_model"), config)
}

/// What belongs to images and sound, and what Llama's checkpoints may hold.
pub(crate) fn is_media_tensor(name: &str) -> bool {
    const PARTS: [&str; 4] = ["vision_tower.", "audio_tower.", "embed_vision.", "embed_audio."];
    let inside = name.strip_prefix("model.").unwrap_or(name);
    PARTS.iter().any(|part| inside.starts_with(part)) || llama::is_buffer(name)
}

fn per_layer_embedding(
    loader: &Loader<'_>,
    config: &ModelConfig,
    PerLayerInputConfig { vocab_size, size }: PerLayerInputConfig,
) -> Result<PerLayerEmbedding, LoadError> {
    let (all, hidden) = (config.num_layers() * size, config.hidden_size);
    Ok(PerLayerEmbedding {
        tokens: loader.embedding("embed_tokens_per_layer", vocab_size, all)?,
        multiplier: loader.rounded_multiplier((size as f32).sqrt()),
        projection: loader.linear("per_layer_model_projection", all, hidden, false)?,
        projection_multiplier: 1.0 / (hidden as f32).sqrt(),
        norm: loader.norm("per_layer_projection_norm", size, config.norm)?,
    })
}

fn block(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn Block>, LoadError> {
    let norm = |name| loader.norm(name, config.hidden_size, config.norm);
    let (feed_forward, activation) = (config.feed_forward, config.feed_forward.activation);
    let inner = config.layers[layer].intermediate_size.unwrap_or(feed_forward.intermediate_size);
    let input = |PerLayerInputConfig { size, .. }| {
        Ok::<_, LoadError>(PerLayerInput {
            gate: loader.linear("per_layer_input_gate", size, config.hidden_size, false)?,
            activation,
            projection: loader.linear("per_layer_projection", config.hidden_size, size, false)?,
            norm: norm("post_per_layer_input_norm")?,
            layer,
        })
    };
    Ok(Box::new(SideInputBlock {
        sandwich: SandwichBlock {
            attention_norm: norm("input_layernorm")?,
            attention: attention(&loader.child("self_attn"), config, layer)?,
            attention_output_norm: norm("post_attention_layernorm")?,
            feed_forward_norm: norm("pre_feedforward_layernorm")?,
            feed_forward: loader.child("mlp").gated_feed_forward(config.hidden_size, inner, false, activation)?,
            feed_forward_output_norm: norm("post_feedforward_layernorm")?,
        },
        experts: config.moe.as_ref().map(|moe| experts(loader, config, moe)).transpose()?,
        input: config.per_layer_input.map(input).transpose()?,
        scalar: loader.scalar("layer_scalar")?,
    }))
}

fn attention(loader: &Loader<'_>, config: &ModelConfig, layer: usize) -> Result<Box<dyn SelfAttention>, LoadError> {
    let (params, LayerConfig { kv_source, keys_are_values, .. }) =
        (config.attention_params(layer), &config.layers[layer]);
    let (hidden, head_dim, bias) = (config.hidden_size, params.head_dim, config.attention.qkv_bias);
    let (q, kv) = (params.num_heads * head_dim, params.num_kv_heads * head_dim);
    let norm = |name| loader.norm(name, head_dim, config.norm);
    let output = loader.linear("o_proj", hidden, q, config.attention.output_bias)?;
    let rope = loader.rope(config, layer)?;
    if let Some(source) = *kv_source {
        for unused in ["k_proj.weight", "v_proj.weight", "k_proj.bias", "v_proj.bias", "k_norm.weight"] {
            loader.ignore(unused);
        }
        let q = loader.linear("q_proj", q, hidden, bias)?;
        return Ok(Box::new(SharedKvAttention { q, q_norm: norm("q_norm")?, output, rope, params, source }));
    }
    let parts = [("q_proj", q), ("k_proj", kv), ("v_proj", kv)];
    let parts = if *keys_are_values { &parts[..2] } else { &parts[..] };
    Ok(Box::new(Attention {
        qkv: loader.fused_linear("qkv_proj", parts, hidden, bias)?,
        output,
        clip_qkv: None,
        qk_norm: Some((norm("q_norm")?, norm("k_norm")?)),
        v_norm: Some(loader.scaled_norm(None, head_dim, 1.0, config.norm.eps)?),
        rope,
        params,
        layer,
    }))
}

fn experts(loader: &Loader<'_>, config: &ModelConfig, moe: &MoeConfig) -> Result<ExpertsBeside, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm.eps);
    let norm = |name| loader.norm(name, hidden, config.norm);
    Ok(ExpertsBeside {
        dense_output_norm: norm("post_feedforward_layernorm_1")?,
        router_norm: loader.scaled_norm(Some("router.scale"), hidden, 1.0 / (hidden as f32).sqrt(), eps)?,
        norm: norm("pre_feedforward_layernorm_2")?,
        moe: loader.scaled_moe(config, moe)?,
        output_norm: norm("post_feedforward_layernorm_2")?,
    })
}
