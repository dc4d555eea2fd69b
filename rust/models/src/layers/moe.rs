use rustllm_ops::{Backend, Expert, GatedActivation, Result, RoutingParams, Tensor};

use super::{FeedForward, Linear};

/// A mixture of experts: each token goes through the few that a router chooses for it (arXiv:1701.06538).
///
/// ```text
///   x ─┬─► router ─► scores ─► the best few ─┐
///      ├─────────────────────► their experts ─► weighted sum ─┬─► y
///      └─────────────────────► shared ────────────────────────┘
/// ```
#[derive(Debug)]
pub(crate) struct Moe {
    /// A score for every expert.
    pub(crate) router: Linear,
    /// Added to the scores that experts are chosen by.
    pub(crate) correction_bias: Option<Tensor>,
    /// How they are chosen, and weighted.
    pub(crate) routing: RoutingParams,
    /// Factor on each expert's weight, `[1, num_experts]`.
    pub(crate) expert_scales: Option<Tensor>,
    /// All of them.
    pub(crate) experts: Vec<Expert>,
    /// Inside an expert.
    pub(crate) activation: GatedActivation,
    /// What every token goes through besides.
    pub(crate) shared: Option<Box<FeedForward>>,
}

impl Moe {
    pub(crate) fn forward(&self, backend: &dyn Backend, x: &Tensor) -> Result<Tensor> {
        self.forward_routed(backend, x, x)
    }

    /// The same for experts that see other numbers than the router.
    pub(crate) fn forward_routed(&self, backend: &dyn Backend, of_router: &Tensor, x: &Tensor) -> Result<Tensor> {
        let logits = self.router.forward(backend, of_router)?;
        let mut routing = backend.route(&logits, self.correction_bias.as_ref(), &self.routing)?;
        if let Some(scales) = &self.expert_scales {
            backend.scale_experts(&mut routing, scales)?;
        }
        let mut y = backend.moe(x, &routing, &self.experts, self.activation)?;
        if let Some(shared) = &self.shared {
            backend.add_assign(&mut y, &shared.forward(backend, x)?)?;
        }
        Ok(y)
    }
}
