use rustllm_ops::{Activation, DType, EncoderAttentionParams};

use super::families::{MAX_LABELS, Result};
use super::fields::Fields;
use crate::pooler::Reduction;
use crate::rope::RopeConfig;

/// What an encoder computes, in one vocabulary for all families.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EncoderConfig {
    /// Rows of the token embedding.
    pub(crate) vocab_size: usize,
    /// Width of the embeddings, where they are narrower than the layers.
    pub(crate) embedding_size: usize,
    /// Width of a layer.
    pub(crate) hidden_size: usize,
    /// Width inside a feed-forward layer.
    pub(crate) intermediate_size: usize,
    /// Layers.
    pub(crate) num_layers: usize,
    /// Attention heads of a layer.
    pub(crate) num_heads: usize,
    /// Elements of a head.
    pub(crate) head_dim: usize,
    /// Non-linearity of the feed-forward layers.
    pub(crate) hidden_act: Activation,
    /// Added to the variance under a norm's root.
    pub(crate) norm_eps: f32,
    /// How learned positions are counted, where there are any.
    pub(crate) positions: Option<Positions>,
    /// Rows of the learned position table, or the context a rotary model was configured for.
    pub(crate) max_position_embeddings: usize,
    /// Rows of the segment table; none where there is no such table.
    pub(crate) type_vocab_size: usize,
    /// Rotary positions, if the model has them.
    pub(crate) rope: Option<RopeConfig>,
    /// What distances stand for in attention, if they do.
    pub(crate) distances: Option<DistanceConfig>,
    /// A convolution beside the first layer.
    pub(crate) convolution: Option<ConvolutionConfig>,
    /// Layers that see no farther than this.
    pub(crate) local: Option<LocalLayers>,
    /// Weights that are used by several layers.
    pub(crate) shared: SharedLayers,
    /// Which linear layers and norms have biases, where it is by switch.
    pub(crate) biases: Biases,
    /// What stands for a prompt in classification.
    pub(crate) classifier_pooling: Reduction,
    /// Non-linearity of a head that has one of its own.
    pub(crate) classifier_act: Activation,
    /// Longest prompt.
    pub(crate) max_model_len: usize,
    /// Element type the checkpoint says it has.
    pub(crate) dtype: Option<DType>,
}

/// Distances between rows that have keys and queries of their own, from a table with a row for each bucket of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DistanceConfig {
    /// Rows of the table to each side.
    pub(crate) span: usize,
    /// Where only half of them are single distances, the distance that the other half reaches.
    pub(crate) logarithmic_to: Option<usize>,
    /// Whether distances have keys.
    pub(crate) keys: bool,
    /// Whether they have queries.
    pub(crate) queries: bool,
    /// Whether these are made by the projections that tokens have.
    pub(crate) share_projections: bool,
    /// Whether the table is normed first.
    pub(crate) norm: bool,
}

/// A convolution over the rows of a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ConvolutionConfig {
    /// Neighbours to each side.
    pub(crate) reach: usize,
    /// What follows it.
    pub(crate) activation: Activation,
}

/// Layers whose rows see their neighbours only.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct LocalLayers {
    /// Rows to each side.
    pub(crate) window: usize,
    /// Rotary positions of these layers.
    pub(crate) rope: RopeConfig,
    /// For each layer, whether it is one of them.
    pub(crate) layers: Vec<bool>,
}

/// Groups of stored layers; the model's layers are dealt to them in equal runs, and each runs all of a group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedLayers {
    pub(crate) groups: usize,
    /// Of a group.
    pub(crate) layers: usize,
}

/// Switches of biases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Biases {
    pub(crate) attention: bool,
    pub(crate) mlp: bool,
    pub(crate) norms: bool,
    /// Of a head's dense layer.
    pub(crate) classifier: bool,
    /// Of the vocabulary's projection.
    pub(crate) decoder: bool,
}

impl Biases {
    pub(crate) const ALL: Self = Self { attention: true, mlp: true, norms: true, classifier: true, decoder: true };
}

impl EncoderConfig {
    /// What attention computes where all rows of a sequence see each other alike.
    pub(crate) fn attention_params(&self) -> EncoderAttentionParams {
        EncoderAttentionParams {
            num_heads: self.num_heads,
            num_kv_heads: self.num_heads,
            head_dim: self.head_dim,
            scale: (1.0 / (self.head_dim as f64).sqrt()) as f32,
            window: None,
            relative_bias: None,
            disentangled: None,
        }
    }
}

/// Which row of the position table a token gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Positions {
    /// Its place in the sequence.
    Absolute,
    /// The padding token's id, plus one for each token up to it that is not padding; a padding token has its own id.
    AfterPadding(u32),
}

/// The classes of a classification head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Labels {
    /// How many.
    pub(crate) count: usize,
    /// How their scores become probabilities.
    pub(crate) activation: ScoreActivation,
}

/// How scores become probabilities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScoreActivation {
    /// They do not: a regression.
    Identity,
    /// Each of its own.
    Sigmoid,
    /// Together 1.
    Softmax,
}

impl Labels {
    /// Reads the number of labels, and what their scores mean: `problem_type`, or the activation a cross-encoder names.
    pub(crate) fn read(fields: &Fields) -> Result<Self> {
        let named = fields.object("id2label")?.map(|labels| labels.names().count());
        let count = fields.optional_size("num_labels", 1..=MAX_LABELS)?.or(named).unwrap_or(2);
        let usual = if count == 1 { ScoreActivation::Sigmoid } else { ScoreActivation::Softmax };
        let activation = match fields.text("problem_type")? {
            _ if count == 0 => return Err(fields.invalid("id2label", "at least one label")),
            Some("regression") => ScoreActivation::Identity,
            Some("multi_label_classification") => ScoreActivation::Sigmoid,
            Some("single_label_classification") => ScoreActivation::Softmax,
            Some(_) => {
                let allowed = "regression, single_label_classification or multi_label_classification";
                return Err(fields.invalid("problem_type", allowed));
            }
            None => cross_encoder_activation(fields)?.unwrap_or(usual),
        };
        Ok(Self { count, activation })
    }
}

/// The activation that a sentence-transformers cross-encoder was trained with, a class of torch by its full name.
fn cross_encoder_activation(fields: &Fields) -> Result<Option<ScoreActivation>> {
    let (old, new) = ("sbert_ce_default_activation_function", "activation_fn");
    let object = fields.object("sentence_transformers")?;
    let (fields, field) = object.as_ref().map_or((fields, old), |object| (object, new));
    match fields.text(field)?.map(|name| name.rsplit('.').next().unwrap_or(name)) {
        None => Ok(None),
        Some("Identity") => Ok(Some(ScoreActivation::Identity)),
        Some("Sigmoid") => Ok(Some(ScoreActivation::Sigmoid)),
        Some("Softmax") => Ok(Some(ScoreActivation::Softmax)),
        Some(_) => Err(fields.invalid(field, "an activation of torch.nn: Identity, Sigmoid or Softmax")),
    }
}
