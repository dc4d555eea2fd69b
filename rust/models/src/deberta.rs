//! DeBERTa-v2 and v3 (arXiv:2006.03654, arXiv:2111.09543): BERT whose queries meet keys of distances, and whose keys meet
//! queries of them, projected from one table. Some have a convolution beside the first layer.

use rustllm_ops::{DisentangledParams, EncoderAttentionParams, Indices, Tensor};

use crate::config::encoder::{ConvolutionConfig, DistanceConfig, EncoderConfig};
use crate::layers::{Block, ConvolvedBlock, Encoder, EncoderEmbedding, Head};
use crate::loader::Loader;
use crate::registry::{EncoderHead, HeadParts};
use crate::{LoadError, bert};

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let (embeddings, encoder, layers) = (base.child("embeddings"), base.child("encoder"), base.child("encoder.layer"));
    let (hidden, width) = (config.hidden_size, config.embedding_size);
    let distances =
        config.distances.as_ref().map(|distances| Distances::load(&encoder, distances, config)).transpose()?;
    let block = |layer: usize| {
        let layer = layers.child(layer);
        let params = match &distances {
            Some(distances) => distances.params(&layer.child("attention.self"), config)?,
            None => config.attention_params(),
        };
        bert::block(&layer, config, ["query_proj", "key_proj", "value_proj"], params)
    };
    let mut blocks = (0..config.num_layers).map(block).collect::<Result<Vec<_>, _>>()?;
    if let Some(convolution) = config.convolution {
        let first = blocks.remove(0);
        blocks.insert(0, convolved(&encoder.child("conv"), first, convolution, config)?);
    }
    let widening = if width == hidden { None } else { Some(embeddings.linear("embed_proj", hidden, width, false)?) };
    Ok(Encoder {
        embedding: EncoderEmbedding { widening, ..embeddings.encoder_embedding_normed(config, hidden)? },
        blocks,
        norm: None,
    })
}

/// The first layer beside a convolution.
fn convolved(
    loader: &Loader<'_>,
    block: Box<dyn Block>,
    ConvolutionConfig { reach, activation }: ConvolutionConfig,
    config: &EncoderConfig,
) -> Result<Box<dyn Block>, LoadError> {
    let width = config.hidden_size;
    Ok(Box::new(ConvolvedBlock {
        block,
        convolution: loader.convolution("conv", width, reach)?,
        reach,
        activation,
        norm: loader.layer_norm("LayerNorm", width, config.norm_eps)?,
    }))
}

/// What layers make their distances' keys and queries of.
struct Distances<'a> {
    config: &'a DistanceConfig,
    /// A row for each bucket.
    table: Tensor,
    buckets: Indices,
}

impl<'a> Distances<'a> {
    fn load(encoder: &Loader<'_>, distances: &'a DistanceConfig, config: &EncoderConfig) -> Result<Self, LoadError> {
        let norm = if distances.norm {
            Some(encoder.layer_norm("LayerNorm", config.hidden_size, config.norm_eps)?)
        } else {
            None
        };
        let farthest = config.max_model_len as isize - 1;
        let buckets = (-farthest..=farthest).map(|distance| bucket(distances, distance) as u32);
        Ok(Self {
            config: distances,
            table: encoder.distance_table("rel_embeddings", 2 * distances.span, config.hidden_size, norm.as_ref())?,
            buckets: encoder.indices(buckets.collect())?,
        })
    }

    /// A layer's attention. What distances stand for depends on weights alone, and is computed here once.
    fn params(&self, loader: &Loader<'_>, config: &EncoderConfig) -> Result<EncoderAttentionParams, LoadError> {
        let &DistanceConfig { keys, queries, share_projections, .. } = self.config;
        let names = if share_projections { ("key_proj", "query_proj") } else { ("pos_key_proj", "pos_query_proj") };
        let projected = |wanted: bool, name| wanted.then(|| loader.projected(name, &self.table)).transpose();
        let disentangled = DisentangledParams {
            keys: projected(keys, names.0)?,
            queries: projected(queries, names.1)?,
            buckets: self.buckets.clone(),
        };
        let params = config.attention_params();
        let products = 1 + usize::from(keys) + usize::from(queries);
        let scale = (1.0 / ((params.head_dim * products) as f64).sqrt()) as f32;
        Ok(EncoderAttentionParams { scale, disentangled: Some(disentangled), ..params })
    }
}

/// The table's row for a key `distance` positions after the query: one for each of the nearest, and where they are logarithmic one
/// for ever more of the others.
fn bucket(config: &DistanceConfig, distance: isize) -> usize {
    let (away, span) = (distance.unsigned_abs(), config.span);
    let exact = span / 2;
    let rows = match config.logarithmic_to {
        // In float32, as the checkpoints were trained: rounding decides where a bucket ends.
        Some(reach) if away > exact => {
            let farther = (away as f32 / exact as f32).ln() / (((reach - 1) as f64 / exact as f64) as f32).ln();
            exact + (farther * (exact - 1) as f32).ceil() as usize
        }
        _ => away,
    };
    if distance > 0 { span.saturating_sub(rows) } else { (span + rows).min(2 * span - 1) }
}

pub(crate) fn head(parts: &HeadParts<'_, '_>) -> Result<Head, LoadError> {
    let &HeadParts { kind, loader, base, config, labels } = parts;
    match kind {
        EncoderHead::SequenceClassification => {
            let layers = ("pooler.dense", config.classifier_act, "classifier");
            loader.classification_head(layers, labels, config.hidden_size)
        }
        // Checkpoints have this head, or else BERT's.
        EncoderHead::MaskedLm if loader.has("lm_predictions.lm_head.dense.weight") => {
            let transform = ("dense", config.hidden_act, "LayerNorm");
            let head = loader.child("lm_predictions.lm_head");
            head.masked_lm_head(transform, ("decoder", "bias"), (base, bert::TABLE), config)
        }
        _ => bert::head(parts),
    }
}

#[cfg(test)]
mod tests {
    use super::{DistanceConfig, bucket};

    const V3: DistanceConfig = DistanceConfig {
        span: 256,
        logarithmic_to: Some(512),
        keys: true,
        queries: true,
        share_projections: true,
        norm: true,
    };

    #[test]
    fn far_distances_share_rows_and_those_past_the_table_have_its_last() {
        let rows = |distances: [isize; 6]| distances.map(|distance| bucket(&V3, distance));
        assert_eq!(rows([0, -1, 1, -128, 128, -129]), [256, 257, 255, 384, 128, 385]);
        assert_eq!(rows([-511, 511, -512, 512, -100_000, 100_000]), [511, 1, 511, 0, 511, 0]);
    }

    #[test]
    fn logarithmic_rows_end_where_those_of_transformers_do() {
        // Of transformers' rows for 5,000 distances to each side: their sum, each times its place modulo 97.
        let expected = [
            ((256, 512), 122_270_384),
            ((8, 24), 3_584_681),
            ((7, 64), 3_120_349),
            ((32, 128), 15_068_498),
            ((128, 1680), 61_098_142),
            ((256, 4096), 122_432_496),
            ((320, 2048), 152_981_325),
        ];
        for ((span, reach), expected) in expected {
            let config = DistanceConfig { span, logarithmic_to: Some(reach), ..V3 };
            let weighted = (-5000..=5000).zip(0..).map(|(distance, place)| bucket(&config, distance) * (place % 97));
            assert_eq!(weighted.sum::<usize>(), expected, "{span} rows to a side, reaching {reach}");
        }
    }

    #[test]
    fn without_logarithms_every_distance_has_a_row_of_its_own() {
        let config = DistanceConfig { span: 3, logarithmic_to: None, ..V3 };
        assert_eq!([3, 2, 1, 0, -1, -2, -3].map(|distance| bucket(&config, distance)), [0, 1, 2, 3, 4, 5, 5]);
    }
}
