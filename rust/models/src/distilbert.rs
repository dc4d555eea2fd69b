//! DistilBERT (arXiv:1910.01108): BERT's layers by other names, without segments and without a pooled token.

use rustllm_ops::Activation;

use crate::config::encoder::EncoderConfig;
use crate::layers::{Block, Encoder, EncoderAttention, EncoderPostNormBlock, Head};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};
use crate::{LoadError, bert};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let layers = base.child("transformer.layer");
    Ok(Encoder {
        embedding: base.child("embeddings").encoder_embedding(config)?,
        blocks: (0..config.num_layers).map(|layer| block(&layers.child(layer), config)).collect::<Result<_, _>>()?,
        norm: None,
    })
}

fn block(loader: &Loader<'_>, config: &EncoderConfig) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm_eps);
    let (attention, ffn) = (loader.child("attention"), loader.child("ffn"));
    Ok(Box::new(EncoderPostNormBlock {
        attention: EncoderAttention {
            qkv: attention.joined_linear(&["q_lin", "k_lin", "v_lin"].map(|name| (name, hidden)), hidden, true)?,
            output: attention.linear("out_lin", hidden, hidden, true)?,
            rope: None,
            params: config.attention_params(),
        },
        attention_norm: loader.layer_norm("sa_layer_norm", hidden, eps)?,
        feed_forward: ffn.encoder_feed_forward("lin1", "lin2", config)?,
        feed_forward_norm: loader.layer_norm("output_layer_norm", hidden, eps)?,
    }))
}

pub(crate) fn head(&HeadParts { kind, loader, base, config, labels }: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let hidden = config.hidden_size;
    match kind {
        EncoderHead::SequenceClassification => {
            loader.classification_head(("pre_classifier", Activation::Relu, "classifier"), labels, hidden)
        }
        EncoderHead::MaskedLm => {
            let transform = ("vocab_transform", config.hidden_act, "vocab_layer_norm");
            let decoder = ("vocab_projector", "vocab_projector.bias");
            loader.masked_lm_head(transform, decoder, (base, bert::TABLE), config)
        }
        kind => loader.token_head(kind, labels, hidden),
    }
}
