//! NomicBERT (arXiv:2402.01613): BERT with rotary positions, gated feed-forward layers and few biases.

use crate::config::encoder::EncoderConfig;
use crate::layers::{Block, Encoder, EncoderAttention, EncoderEmbedding, EncoderPostNormBlock, FeedForward, Head};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};
use crate::{LoadError, bert};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let layers = base.child("encoder.layers");
    let rope = config.rope.as_ref().map(|rope| base.rope_table(rope, config.max_model_len)).transpose()?;
    let tables = base.child("embeddings");
    let block = |layer| -> Result<Box<dyn Block>, LoadError> {
        let (loader, hidden, inner) = (layers.child(layer), config.hidden_size, config.intermediate_size);
        let (attention, mlp) = (loader.child("attn"), loader.child("mlp"));
        Ok(Box::new(EncoderPostNormBlock {
            attention: EncoderAttention {
                qkv: attention.linear("Wqkv", 3 * hidden, hidden, config.biases.attention)?,
                output: attention.linear("out_proj", hidden, hidden, config.biases.attention)?,
                rope: rope.clone(),
                params: config.attention_params(),
            },
            attention_norm: loader.layer_norm("norm1", hidden, config.norm_eps)?,
            feed_forward: FeedForward::Gated {
                gate_up: mlp.joined_linear(&[("fc12", inner), ("fc11", inner)], hidden, config.biases.mlp)?,
                down: mlp.linear("fc2", hidden, inner, config.biases.mlp)?,
                activation: config.hidden_act,
            },
            feed_forward_norm: loader.layer_norm("norm2", hidden, config.norm_eps)?,
        }))
    };
    Ok(Encoder {
        embedding: EncoderEmbedding {
            tokens: tables.embedding("word_embeddings", config.vocab_size, config.hidden_size)?,
            positions: None,
            token_types: Some(tables.embedding("token_type_embeddings", config.type_vocab_size, config.hidden_size)?),
            widening: None,
            norm: base.layer_norm("emb_ln", config.hidden_size, config.norm_eps)?,
            projection: None,
        },
        blocks: (0..config.num_layers).map(block).collect::<Result<_, _>>()?,
        norm: None,
    })
}

pub(crate) fn head(parts: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let &HeadParts { kind, loader, base, config, .. } = parts;
    match kind {
        EncoderHead::MaskedLm => {
            let transform = ("transform.dense", config.hidden_act, "transform.layer_norm");
            loader.child("cls.predictions").masked_lm_head(transform, ("decoder", "bias"), (base, bert::TABLE), config)
        }
        _ => bert::head(parts),
    }
}
