//! BERT (arXiv:1810.04805).

use rustllm_ops::Activation;

use crate::LoadError;
use crate::config::encoder::{EncoderConfig, Labels};
use crate::layers::{Block, Encoder, EncoderAttention, EncoderEmbedding, FeedForward, Head, HeadLayer, PostNormBlock};
use crate::loader::Loader;
use crate::registry::EncoderHead;

pub(crate) fn build(loader: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let base = base(loader);
    let layers = base.child("encoder.layer");
    Ok(Encoder {
        embedding: embedding(&base.child("embeddings"), config)?,
        blocks: (0..config.num_layers).map(|layer| block(&layers.child(layer), config)).collect::<Result<_, _>>()?,
        norm: None,
    })
}

fn base<'a>(loader: &Loader<'a>) -> Loader<'a> {
    loader.base_model("bert", "embeddings.word_embeddings.weight")
}

fn embedding(loader: &Loader<'_>, config: &EncoderConfig) -> Result<EncoderEmbedding, LoadError> {
    let table = |name, rows| loader.embedding(name, rows, config.embedding_size);
    let positions = table("position_embeddings", config.max_position_embeddings)?;
    let types = config.type_vocab_size;
    Ok(EncoderEmbedding {
        tokens: table("word_embeddings", config.vocab_size)?,
        positions: Some((positions, config.positions)),
        token_types: if types > 0 { Some(table("token_type_embeddings", types)?) } else { None },
        norm: loader.layer_norm("LayerNorm", config.embedding_size, config.norm_eps)?,
        projection: None,
    })
}

fn block(loader: &Loader<'_>, config: &EncoderConfig) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, inner, eps) = (config.hidden_size, config.intermediate_size, config.norm_eps);
    let (attention, output) = (loader.child("attention"), loader.child("output"));
    let qkv = [("query", hidden), ("key", hidden), ("value", hidden)];
    Ok(Box::new(PostNormBlock {
        attention: EncoderAttention {
            qkv: attention.child("self").fused_linear(&qkv, hidden, true)?,
            output: attention.linear("output.dense", hidden, hidden, true)?,
            rope: None,
            params: config.attention_params(),
        },
        attention_norm: attention.layer_norm("output.LayerNorm", hidden, eps)?,
        feed_forward: FeedForward::Plain {
            up: loader.linear("intermediate.dense", inner, hidden, true)?,
            down: output.linear("dense", hidden, inner, true)?,
            activation: config.hidden_act,
        },
        feed_forward_norm: output.layer_norm("LayerNorm", hidden, eps)?,
    }))
}

/// The pooled first token for a sequence; the hidden states themselves for tokens.
pub(crate) fn head(
    loader: &Loader<'_>,
    config: &EncoderConfig,
    kind: EncoderHead,
    labels: Labels,
) -> Result<Head, LoadError> {
    let hidden = config.hidden_size;
    match kind {
        EncoderHead::Base => Ok(Head::default()),
        EncoderHead::SequenceClassification => Ok(Head {
            layers: vec![
                HeadLayer::Linear(base(loader).head_linear("pooler.dense", hidden, hidden)?),
                HeadLayer::Activation(Activation::Tanh),
                HeadLayer::Linear(loader.head_linear("classifier", labels.count, hidden)?),
            ],
        }),
        EncoderHead::TokenClassification => Ok(loader.head_linear("classifier", labels.count, hidden)?.into()),
        EncoderHead::QuestionAnswering => Ok(loader.head_linear("qa_outputs", 2, hidden)?.into()),
        EncoderHead::MaskedLm => {
            let predictions = loader.child("cls.predictions");
            let dense = predictions.head_linear("transform.dense", hidden, hidden)?;
            let norm = predictions.layer_norm("transform.LayerNorm", hidden, config.norm_eps)?;
            let table = base(loader).child("embeddings");
            let decoder = predictions.masked_lm_decoder(config, &table, "word_embeddings")?;
            Ok(Head {
                layers: vec![
                    HeadLayer::Linear(dense),
                    HeadLayer::Activation(config.hidden_act),
                    HeadLayer::Norm(norm),
                    HeadLayer::Linear(decoder),
                ],
            })
        }
    }
}

/// Position numbers that old checkpoints store, and the layers of other heads.
pub(crate) fn is_unused(name: &str) -> bool {
    let name = name.strip_prefix("bert.").unwrap_or(name);
    name.ends_with(".position_ids")
        || ["pooler.", "cls.", "classifier.", "qa_outputs."].iter().any(|head| name.starts_with(head))
}
