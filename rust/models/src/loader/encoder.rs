//! What encoders load alike: embeddings, and the heads on top of them.

use rustllm_ops::{Activation, Tensor, WeightFormat};

use super::owned_matrix::OwnedMatrix;
use super::{Loader, Result};
use crate::config::encoder::{EncoderConfig, Labels};
use crate::layers::{EncoderEmbedding, FeedForward, Head, Linear, Norm};
use crate::registry::EncoderHead;

impl Loader<'_> {
    /// The tables of tokens, positions and segments by BERT's names, and the norm of their sum.
    pub(crate) fn encoder_embedding(&self, config: &EncoderConfig) -> Result<EncoderEmbedding> {
        self.encoder_embedding_normed(config, config.embedding_size)
    }

    /// The same, with a norm of `width`. A table of positions that is not read may be there.
    pub(crate) fn encoder_embedding_normed(&self, config: &EncoderConfig, width: usize) -> Result<EncoderEmbedding> {
        let table = |name, rows| self.embedding(name, rows, config.embedding_size);
        let learned =
            |positions| -> Result<_> { Ok((table("position_embeddings", config.max_position_embeddings)?, positions)) };
        if config.positions.is_none() {
            self.ignore("position_embeddings.weight");
        }
        let types = config.type_vocab_size;
        Ok(EncoderEmbedding {
            tokens: table("word_embeddings", config.vocab_size)?,
            positions: config.positions.map(learned).transpose()?,
            token_types: if types > 0 { Some(table("token_type_embeddings", types)?) } else { None },
            widening: None,
            norm: self.layer_norm("LayerNorm", width, config.norm_eps)?,
            projection: None,
        })
    }

    /// Several linear layers of one input as one, their outputs side by side.
    pub(crate) fn joined_linear(&self, parts: &[(&str, usize)], in_features: usize, bias: bool) -> Result<Linear> {
        self.joined_in(self.loading.formats.linear, parts, in_features, bias)
    }

    fn joined_in(
        &self,
        format: WeightFormat,
        parts: &[(&str, usize)],
        in_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        let mut matrices = Vec::with_capacity(parts.len());
        let mut biases = Vec::new();
        for (name, out_features) in parts {
            matrices.push(self.matrix(&format!("{name}.weight"), *out_features, in_features)?);
            if bias {
                biases.extend(self.values(&format!("{name}.bias"), *out_features)?);
            }
        }
        self.pack(&matrices, format, bias.then_some(biases.as_slice()))
    }

    /// A convolution over rows of `width` with `reach` neighbours to each side, stored `[width, width, places]`, as a linear
    /// layer of the places side by side.
    pub(crate) fn convolution(&self, name: &str, width: usize, reach: usize) -> Result<Linear> {
        let places = 2 * reach + 1;
        let (dtype, view) = self.tensor(&format!("{name}.weight"), &[width, width, places])?;
        let element = |index: usize| &view.bytes[index * dtype.size()..(index + 1) * dtype.size()];
        let of_row = |row: usize| {
            (0..places).flat_map(move |place| (0..width).map(move |col| (row * width + col) * places + place))
        };
        let bytes = (0..width).flat_map(of_row).flat_map(element).copied().collect();
        let matrix = OwnedMatrix { dtype, cols: places * width, bytes };
        let bias = self.values(&format!("{name}.bias"), width)?;
        self.pack(&[matrix.view()?], self.loading.formats.linear, Some(&bias))
    }

    /// A feed-forward layer without a gate, from its two linear layers' names.
    pub(crate) fn encoder_feed_forward(&self, up: &str, down: &str, config: &EncoderConfig) -> Result<FeedForward> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        Ok(FeedForward::Plain {
            up: self.linear(up, inner, hidden, true)?,
            down: self.linear(down, hidden, inner, true)?,
            activation: config.hidden_act,
        })
    }

    /// `name.weight` and `name.bias`, scale and shift of a layer norm; in the oldest checkpoints `gamma` and `beta`.
    pub(crate) fn layer_norm(&self, name: &str, width: usize, eps: f32) -> Result<Norm> {
        self.layer_norm_with(name, width, eps, true)
    }

    /// The same, its shift by switch.
    pub(crate) fn layer_norm_with(&self, name: &str, width: usize, eps: f32, shifts: bool) -> Result<Norm> {
        let old = self.has(&format!("{name}.gamma"));
        let (weight, bias) = if old { ("gamma", "beta") } else { ("weight", "bias") };
        let weight = self.vector(&self.values(&format!("{name}.{weight}"), width)?)?;
        let shift = || self.vector(&self.values(&format!("{name}.{bias}"), width)?);
        Ok(Norm::Layer { weight, bias: shifts.then(shift).transpose()?, eps })
    }

    /// A linear layer of a head, with a bias: small, and decisive, so that it is not quantized.
    pub(crate) fn head_linear(&self, name: &str, out_features: usize, in_features: usize) -> Result<Linear> {
        self.head_linear_with(name, out_features, in_features, true)
    }

    /// The same, its bias by switch.
    pub(crate) fn head_linear_with(
        &self,
        name: &str,
        out_features: usize,
        in_features: usize,
        bias: bool,
    ) -> Result<Linear> {
        self.joined_in(self.loading.formats.table, &[(name, out_features)], in_features, bias)
    }

    /// The heads that are one layer at most, on the hidden states of each token.
    pub(crate) fn token_head(&self, kind: EncoderHead, labels: Labels, hidden: usize) -> Result<Head> {
        match kind {
            EncoderHead::QuestionAnswering => Ok(Head::of([self.head_linear("qa_outputs", 2, hidden)?.into()])),
            EncoderHead::Base => Ok(Head::default()),
            _ => Ok(Head::of([self.head_linear("classifier", labels.count, hidden)?.into()])),
        }
    }

    /// `dense` and `out` with an activation between them, for the classes of a prompt.
    pub(crate) fn classification_head(
        &self,
        (dense, activation, out): (&str, Activation, &str),
        labels: Labels,
        hidden: usize,
    ) -> Result<Head> {
        Ok(Head::of([
            self.head_linear(dense, hidden, hidden)?.into(),
            activation.into(),
            self.head_linear(out, labels.count, hidden)?.into(),
        ]))
    }

    /// `dense` to the embeddings' width, an activation, `norm`, and the scores of the [`vocabulary`](Self::vocabulary).
    pub(crate) fn masked_lm_head(
        &self,
        (dense, activation, norm): (&str, Activation, &str),
        (decoder, bias): (&str, &str),
        table: (&Self, &str),
        config: &EncoderConfig,
    ) -> Result<Head> {
        let width = config.embedding_size;
        Ok(Head::of([
            self.head_linear(dense, width, config.hidden_size)?.into(),
            activation.into(),
            self.layer_norm(norm, width, config.norm_eps)?.into(),
            self.vocabulary((decoder, Some(bias)), table, config)?.into(),
        ]))
    }

    /// Scores of every token: by `decoder.weight`, or `table.weight` of `base` where the checkpoint has no such tensor, and a
    /// bias if it has one.
    pub(crate) fn vocabulary(
        &self,
        (decoder, bias): (&str, Option<&str>),
        (base, table): (&Self, &str),
        config: &EncoderConfig,
    ) -> Result<Linear> {
        let (rows, width) = (config.vocab_size, config.embedding_size);
        self.ignore(&format!("{decoder}.bias"));
        let own = format!("{decoder}.weight");
        let matrix = match self.has(&own) {
            true => self.matrix(&own, rows, width)?,
            false => base.matrix(&format!("{table}.weight"), rows, width)?,
        };
        let bias = bias.map(|bias| self.values(bias, rows)).transpose()?;
        self.pack(&[matrix], self.loading.formats.lm_head, bias.as_deref())
    }

    /// `name.weight`, `[buckets, heads]`, as a bias of each head by distance: `bucket` says which row a distance has, up to
    /// `reach` to both sides.
    pub(crate) fn relative_bias(
        &self,
        name: &str,
        (buckets, heads, reach): (usize, usize, usize),
        bucket: fn(isize) -> usize,
    ) -> Result<Tensor> {
        let (dtype, view) = self.tensor(&format!("{name}.weight"), &[buckets, heads])?;
        let table = dtype.decode(view.bytes);
        let distances = move || -(reach as isize)..=reach as isize;
        let values: Vec<f32> = (0..heads)
            .flat_map(|head| distances().map(move |d| (d, head)))
            .map(|(d, head)| table[bucket(d) * heads + head])
            .collect();
        Ok(self.loading.backend.tensor(&values, heads, 2 * reach + 1)?)
    }
}
