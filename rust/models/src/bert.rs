//! BERT (arXiv:1810.04805), and what differs from it by how positions are counted, by the embeddings' width or by its heads:
//! RoBERTa, XLM-RoBERTa, CamemBERT and ELECTRA.

use rustllm_ops::{Activation, EncoderAttentionParams};

use crate::LoadError;
use crate::config::encoder::EncoderConfig;
use crate::layers::{Block, Encoder, EncoderAttention, EncoderEmbedding, EncoderPostNormBlock, Head};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let layers = base.child("encoder.layer");
    let (hidden, width) = (config.hidden_size, config.embedding_size);
    let projection =
        if width == hidden { None } else { Some(base.linear("embeddings_project", hidden, width, true)?) };
    Ok(Encoder {
        embedding: EncoderEmbedding { projection, ..base.child("embeddings").encoder_embedding(config)? },
        blocks: (0..config.num_layers)
            .map(|layer| block(&layers.child(layer), config, ["query", "key", "value"], config.attention_params()))
            .collect::<Result<_, _>>()?,
        norm: None,
    })
}

/// A layer, its projections by the names `qkv`.
pub(crate) fn block(
    loader: &Loader<'_>,
    config: &EncoderConfig,
    qkv: [&str; 3],
    params: EncoderAttentionParams,
) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm_eps);
    let attention = loader.child("attention");
    Ok(Box::new(EncoderPostNormBlock {
        attention: EncoderAttention {
            qkv: attention.child("self").joined_linear(&qkv.map(|name| (name, hidden)), hidden, true)?,
            output: attention.linear("output.dense", hidden, hidden, true)?,
            rope: None,
            params,
        },
        attention_norm: attention.layer_norm("output.LayerNorm", hidden, eps)?,
        feed_forward: loader.encoder_feed_forward("intermediate.dense", "output.dense", config)?,
        feed_forward_norm: loader.layer_norm("output.LayerNorm", hidden, eps)?,
    }))
}

/// Where the vocabulary's vectors are.
pub(crate) const TABLE: &str = "embeddings.word_embeddings";

pub(crate) fn head(&HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let hidden = config.hidden_size;
    match kind {
        EncoderHead::SequenceClassification => Ok(Head::of([
            base.head_linear("pooler.dense", hidden, hidden)?.into(),
            Activation::Tanh.into(),
            loader.head_linear("classifier", labels.count, hidden)?.into(),
        ])),
        EncoderHead::MaskedLm => {
            let transform = ("transform.dense", config.hidden_act, "transform.LayerNorm");
            loader.child("cls.predictions").masked_lm_head(transform, ("decoder", "bias"), (base, TABLE), config)
        }
        kind => loader.token_head(kind, labels, hidden),
    }
}

pub(crate) fn roberta_head(
    &HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>,
) -> Result<Head, LoadError> {
    let layers = ("classifier.dense", Activation::Tanh, "classifier.out_proj");
    match kind {
        EncoderHead::SequenceClassification => loader.classification_head(layers, labels, config.hidden_size),
        EncoderHead::MaskedLm => {
            let transform = ("dense", Activation::Gelu, "layer_norm");
            loader.child("lm_head").masked_lm_head(transform, ("decoder", "bias"), (base, TABLE), config)
        }
        kind => loader.token_head(kind, labels, config.hidden_size),
    }
}

pub(crate) fn electra_head(
    &HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>,
) -> Result<Head, LoadError> {
    let layers = ("classifier.dense", Activation::Gelu, "classifier.out_proj");
    match kind {
        EncoderHead::SequenceClassification => loader.classification_head(layers, labels, config.hidden_size),
        EncoderHead::MaskedLm => {
            let transform = ("generator_predictions.dense", Activation::Gelu, "generator_predictions.LayerNorm");
            let decoder = ("generator_lm_head", "generator_lm_head.bias");
            loader.masked_lm_head(transform, decoder, (base, TABLE), config)
        }
        kind => loader.token_head(kind, labels, config.hidden_size),
    }
}
