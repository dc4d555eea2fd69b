//! MPNet (arXiv:2004.09297): BERT with a bias on the scores by distance, the same in all layers, and RoBERTa's heads.

use rustllm_ops::EncoderAttentionParams;

use crate::LoadError;
use crate::config::encoder::EncoderConfig;
use crate::layers::{Block, Encoder, EncoderAttention, EncoderPostNormBlock};
use crate::loader::Loader;

/// Half of the bias's rows: distances to one side.
const BUCKETS: usize = 16;
/// The distance from which on all have the last bucket.
const REACH: usize = 128;

pub(crate) fn build(base: &Loader<'_>, config: &EncoderConfig) -> Result<Encoder, LoadError> {
    let (encoder, layers) = (base.child("encoder"), base.child("encoder.layer"));
    let bias = encoder.relative_bias("relative_attention_bias", (2 * BUCKETS, config.num_heads, REACH), bucket)?;
    let params = EncoderAttentionParams { relative_bias: Some(bias), ..config.attention_params() };
    let block = |layer| block(&layers.child(layer), config, &params);
    Ok(Encoder {
        embedding: base.child("embeddings").encoder_embedding(config)?,
        blocks: (0..config.num_layers).map(block).collect::<Result<_, _>>()?,
        norm: None,
    })
}

/// The bias's row for a key `distance` positions after the query: one for each of the nearest eight, then some for distances
/// that grow by a factor.
fn bucket(distance: isize) -> usize {
    let (away, exact) = (distance.unsigned_abs(), BUCKETS / 2);
    let side = if distance > 0 { BUCKETS } else { 0 };
    if away < exact {
        return side + away;
    }
    // In float32, as the checkpoints were trained: the buckets' bounds are powers that rounding decides.
    let farther = (away as f32 / exact as f32).ln() / ((REACH as f64 / exact as f64).ln() as f32);
    side + (exact + (farther * (BUCKETS - exact) as f32) as usize).min(BUCKETS - 1)
}

fn block(
    loader: &Loader<'_>,
    config: &EncoderConfig,
    params: &EncoderAttentionParams,
) -> Result<Box<dyn Block>, LoadError> {
    let (hidden, eps) = (config.hidden_size, config.norm_eps);
    let attention = loader.child("attention.attn");
    Ok(Box::new(EncoderPostNormBlock {
        attention: EncoderAttention {
            qkv: attention.joined_linear(&["q", "k", "v"].map(|name| (name, hidden)), hidden, true)?,
            output: attention.linear("o", hidden, hidden, true)?,
            rope: None,
            params: params.clone(),
        },
        attention_norm: loader.layer_norm("attention.LayerNorm", hidden, eps)?,
        feed_forward: loader.encoder_feed_forward("intermediate.dense", "output.dense", config)?,
        feed_forward_norm: loader.layer_norm("output.LayerNorm", hidden, eps)?,
    }))
}

#[cfg(test)]
mod tests {
    use super::bucket;

    #[test]
    fn near_distances_have_buckets_of_their_own_and_far_ones_share() {
        assert_eq!([0, -1, -7, -8, -11, -12].map(bucket), [0, 1, 7, 8, 8, 9]);
        assert_eq!([1, 7, 8].map(bucket), [17, 23, 24]);
        assert_eq!([-127, -128, -10_000, 128].map(bucket), [15, 15, 15, 31]);
    }
}
