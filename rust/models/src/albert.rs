//! ALBERT (arXiv:1909.11942): narrow embeddings, and layers that share their weights.

use std::sync::Arc;

use rustllm_ops::Activation;

use crate::config::encoder::EncoderConfig;
use crate::layers::{Block, Encoder, EncoderAttention, EncoderEmbedding, EncoderPostNormBlock, Head};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};
use crate::{LoadError, bert};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let encoder = base.child("encoder");
    let projection = encoder.linear("embedding_hidden_mapping_in", config.hidden_size, config.embedding_size, true)?;
    let stored = |group: usize, layer: usize| {
        let layers = encoder.child("albert_layer_groups").child(group).child("albert_layers");
        block(&layers.child(layer), config).map(Arc::new)
    };
    let groups =
        (0..config.shared.groups).map(|group| (0..config.shared.layers).map(|layer| stored(group, layer)).collect());
    let groups: Vec<Vec<Arc<EncoderPostNormBlock>>> = groups.collect::<Result<_, LoadError>>()?;
    // A group's layers run one after another wherever the group does.
    let used = (0..config.num_layers).flat_map(|layer| &groups[layer * groups.len() / config.num_layers]);
    Ok(Encoder {
        embedding: EncoderEmbedding {
            projection: Some(projection),
            ..base.child("embeddings").encoder_embedding(config)?
        },
        blocks: used.map(|block| Box::new(Arc::clone(block)) as Box<dyn Block>).collect(),
        norm: None,
    })
}

fn block(loader: &Loader<'_>, config: &EncoderConfig) -> Result<EncoderPostNormBlock, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm_eps);
    let attention = loader.child("attention");
    Ok(EncoderPostNormBlock {
        attention: EncoderAttention {
            qkv: attention.joined_linear(&["query", "key", "value"].map(|name| (name, hidden)), hidden, true)?,
            output: attention.linear("dense", hidden, hidden, true)?,
            rope: None,
            params: config.attention_params(),
        },
        attention_norm: attention.layer_norm("LayerNorm", hidden, eps)?,
        feed_forward: loader.encoder_feed_forward("ffn", "ffn_output", config)?,
        feed_forward_norm: loader.layer_norm("full_layer_layer_norm", hidden, eps)?,
    })
}

pub(crate) fn head(&HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let hidden = config.hidden_size;
    match kind {
        EncoderHead::SequenceClassification => Ok(Head::of([
            base.head_linear("pooler", hidden, hidden)?.into(),
            Activation::Tanh.into(),
            loader.head_linear("classifier", labels.count, hidden)?.into(),
        ])),
        EncoderHead::MaskedLm => {
            let transform = ("dense", config.hidden_act, "LayerNorm");
            loader.child("predictions").masked_lm_head(transform, ("decoder", "bias"), (base, bert::TABLE), config)
        }
        kind => loader.token_head(kind, labels, hidden),
    }
}
