//! ModernBERT (arXiv:2412.13663): rotary positions, layers that see their neighbours only between those that see all, and
//! gated feed-forward layers, each on a norm of the stream.

use rustllm_ops::{EncoderAttentionParams, RopeTable};

use crate::LoadError;
use crate::config::encoder::EncoderConfig;
use crate::layers::{
    Block, Encoder, EncoderAttention, EncoderEmbedding, EncoderPreNormBlock, FeedForward, Head, HeadLayer,
};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let (hidden, shifts) = (config.hidden_size, config.biases.norms);
    let (embeddings, layers) = (base.child("embeddings"), base.child("layers"));
    let table = |rope| base.rope_table(rope, config.max_model_len);
    let global = (None, config.rope.as_ref().map(table).transpose()?);
    let local = match &config.local {
        Some(local) => (Some(local.window), Some(table(&local.rope)?)),
        None => global.clone(),
    };
    let is_local = |layer: usize| config.local.as_ref().is_some_and(|local| local.layers[layer]);
    let block = |layer| block(&layers.child(layer), config, layer, if is_local(layer) { &local } else { &global });
    Ok(Encoder {
        embedding: EncoderEmbedding {
            tokens: embeddings.embedding("tok_embeddings", config.vocab_size, hidden)?,
            positions: None,
            token_types: None,
            widening: None,
            norm: embeddings.layer_norm_with("norm", hidden, config.norm_eps, shifts)?,
            projection: None,
        },
        blocks: (0..config.num_layers).map(block).collect::<Result<_, _>>()?,
        norm: Some(base.layer_norm_with("final_norm", hidden, config.norm_eps, shifts)?),
    })
}

fn block(
    loader: &Loader<'_>,
    config: &EncoderConfig,
    layer: usize,
    (window, rope): &(Option<usize>, Option<RopeTable>),
) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, inner, biases) = (config.hidden_size, config.intermediate_size, config.biases);
    let norm = |name| loader.layer_norm_with(name, hidden, config.norm_eps, biases.norms);
    Ok(Box::new(EncoderPreNormBlock {
        // The embedding's own norm is the first layer's.
        attention_norm: if layer == 0 { None } else { Some(norm("attn_norm")?) },
        attention: EncoderAttention {
            qkv: loader.linear("attn.Wqkv", 3 * hidden, hidden, biases.attention)?,
            output: loader.linear("attn.Wo", hidden, hidden, biases.attention)?,
            rope: rope.clone(),
            params: EncoderAttentionParams { window: *window, ..config.attention_params() },
        },
        feed_forward_norm: norm("mlp_norm")?,
        feed_forward: FeedForward::Gated {
            gate_up: loader.linear("mlp.Wi", 2 * inner, hidden, biases.mlp)?,
            down: loader.linear("mlp.Wo", hidden, inner, biases.mlp)?,
            activation: config.hidden_act,
        },
    }))
}

pub(crate) fn head(&HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let (hidden, biases) = (config.hidden_size, config.biases);
    let transform = |last: HeadLayer| -> Result<Head, LoadError> {
        Ok(Head::of([
            loader.head_linear_with("head.dense", hidden, hidden, biases.classifier)?.into(),
            config.classifier_act.into(),
            loader.layer_norm_with("head.norm", hidden, config.norm_eps, biases.norms)?.into(),
            last,
        ]))
    };
    match kind {
        EncoderHead::Base => Ok(Head::default()),
        EncoderHead::MaskedLm => {
            let bias = if biases.decoder { Some("decoder.bias") } else { None };
            transform(loader.vocabulary(("decoder", bias), (base, "embeddings.tok_embeddings"), config)?.into())
        }
        EncoderHead::QuestionAnswering => transform(loader.head_linear("classifier", 2, hidden)?.into()),
        _ => transform(loader.head_linear("classifier", labels.count, hidden)?.into()),
    }
}
