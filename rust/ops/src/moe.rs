//! Mixture of experts: what a router's scores mean, and what an expert is.

use crate::{Activation, Tensor, Weight};

/// Keeps a row whose chosen scores are all zero from dividing by zero.
pub const MIN_SCORE_SUM: f32 = 1e-20;

/// What becomes of a router's logits before experts are chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scoring {
    /// Softmax over all experts.
    Softmax,
    /// The logistic function, each expert by itself.
    Sigmoid,
}

/// What the score of a group of experts is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupScore {
    /// Its best expert's (DeepSeek-V2, arXiv:2405.04434).
    Best,
    /// The sum of its two best experts' (DeepSeek-V3, arXiv:2412.19437).
    TwoBest,
}

/// Experts in groups, of which only some are looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertGroups {
    /// Groups of consecutive experts, all of one size.
    pub num_groups: usize,
    /// Groups whose experts may be chosen.
    pub topk_group: usize,
    /// How groups are compared.
    pub score: GroupScore,
}

/// How a row's experts are chosen and weighted.
///
/// ```text
///   logits ─► scoring ─► scores ─┬─► + bias ─► groups ─► best `top_k`: the experts, best first
///                                └─► theirs ─► renormalized? ─► * scaling_factor: the weights
/// ```
///
/// Of equal scores the expert (or group) of the lower number is chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RoutingParams {
    /// Experts a row is given to.
    pub top_k: usize,
    /// From logits to scores.
    pub scoring: Scoring,
    /// Groups that limit the choice.
    pub groups: Option<ExpertGroups>,
    /// Whether a row's weights are divided by their sum.
    pub renormalize: bool,
    /// Factor on all weights.
    pub scaling_factor: f32,
}

/// The experts of every row and what each counts for.
#[derive(Debug, Clone)]
pub struct Routing {
    /// Numbers of the experts, `[rows, top_k]`, as floating-point numbers; best first.
    pub experts: Tensor,
    /// Their weights, `[rows, top_k]`.
    pub weights: Tensor,
}

/// What stands between an expert's two products: from `[rows, 2 * n]`, gate in the first half, to `[rows, n]`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum GatedActivation {
    /// `activation(gate) * up`.
    Plain(Activation),
    /// `(clamp(up) + 1) * g * sigmoid(alpha * g)` where `g` is the gate, at most `limit`; up is clamped to `-limit..=limit`.
    ClampedSwiglu {
        /// Slope of the sigmoid.
        alpha: f32,
        /// Where gate and up are cut off.
        limit: f32,
    },
}

/// One expert: a gated feed-forward layer.
#[derive(Debug, Clone)]
pub struct Expert {
    /// Gate and up projections side by side, `[2 * intermediate_size, hidden_size]`.
    pub gate_up: Weight,
    /// `[1, 2 * intermediate_size]`.
    pub gate_up_bias: Option<Tensor>,
    /// Back to the stream's width, `[hidden_size, intermediate_size]`.
    pub down: Weight,
    /// `[1, hidden_size]`.
    pub down_bias: Option<Tensor>,
}
