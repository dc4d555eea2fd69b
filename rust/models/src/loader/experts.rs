//! Mixtures of experts, in the layouts checkpoints have them.
//!
//! ```text
//!   one by one   experts.N.gate_proj.weight, .up_proj, .down_proj      on the hub; Mixtral's are called w1, w3 and w2
//!   together     experts.gate_up_proj [experts, 2 * inner, hidden]     transformers 5
//!                experts.down_proj    [experts, hidden, inner]
//! ```
//!
//! Routers keep float32, whatever the other weights are converted to: they decide between experts.

use rustllm_ops::{Activation, DType, Expert, GatedActivation, HostMatrix, RoutingParams, Scoring, WeightFormat};

use super::{Loader, Result};
use crate::ModelConfig;
use crate::config::{FeedForwardConfig, MoeConfig, SharedExpertConfig};
use crate::layers::{FeedForward, Linear, Moe};

const ROUTER_FORMAT: WeightFormat = WeightFormat::Dense(DType::F32);

impl<'a> Loader<'a> {
    /// The mixture of experts whose router is called `gate`.
    pub(crate) fn moe(&self, config: &ModelConfig, moe: &MoeConfig) -> Result<Moe> {
        let shared = moe.shared.as_ref().map(|shared| self.shared_expert(config, shared)).transpose()?;
        let bias = |name| self.vector(&self.values(name, moe.num_experts)?);
        Ok(Moe {
            router: self.router("gate", moe.num_experts, config.hidden_size)?,
            correction_bias: moe.correction_bias.then(|| bias("gate.e_score_correction_bias")).transpose()?,
            routing: moe.routing,
            expert_scales: None,
            experts: self.child("experts").experts(config.hidden_size, moe)?,
            activation: moe.activation,
            shared: shared.map(Box::new),
        })
    }

    /// The mixture of experts whose router is under `router` and scales its choices.
    pub(crate) fn scaled_moe(&self, config: &ModelConfig, moe: &MoeConfig) -> Result<Moe> {
        let router = self.child("router");
        Ok(Moe {
            router: router.router("proj", moe.num_experts, config.hidden_size)?,
            correction_bias: None,
            routing: moe.routing,
            expert_scales: Some(self.vector(&router.values("per_expert_scale", moe.num_experts)?)?),
            experts: self.child("experts").experts(config.hidden_size, moe)?,
            activation: moe.activation,
            shared: None,
        })
    }

    /// A gated feed-forward layer, its projections in three tensors or the first two in one.
    pub(crate) fn gated_feed_forward(
        &self,
        hidden: usize,
        inner: usize,
        bias: bool,
        activation: Activation,
    ) -> Result<FeedForward> {
        Ok(FeedForward::Gated {
            gate_up: self.fused_linear("gate_up_proj", &[("gate_proj", inner), ("up_proj", inner)], hidden, bias)?,
            down: self.linear("down_proj", hidden, inner, bias)?,
            activation,
        })
    }

    pub(super) fn router(&self, name: &str, num_experts: usize, hidden: usize) -> Result<Linear> {
        let weight = self.weight(name, num_experts, hidden, ROUTER_FORMAT)?;
        Ok(Linear { weight, bias: None })
    }

    /// What every token goes through. With a gate it is a mixture of one expert, whose weight is the gate's sigmoid.
    fn shared_expert(&self, config: &ModelConfig, shared: &SharedExpertConfig) -> Result<FeedForward> {
        let (hidden, inner) = (config.hidden_size, shared.intermediate_size);
        let FeedForwardConfig { activation, bias, .. } = config.feed_forward;
        if !shared.gated {
            return self.child("shared_experts").gated_feed_forward(hidden, inner, bias, activation);
        }
        Ok(FeedForward::Moe(Moe {
            router: self.router("shared_expert_gate", 1, hidden)?,
            correction_bias: None,
            routing: RoutingParams {
                top_k: 1,
                scoring: Scoring::Sigmoid,
                groups: None,
                renormalize: false,
                scaling_factor: 1.0,
            },
            expert_scales: None,
            experts: vec![self.child("shared_expert").expert(["gate_proj", "up_proj", "down_proj"], hidden, inner)?],
            activation: GatedActivation::Plain(activation),
            shared: None,
        }))
    }

    fn experts(&self, hidden: usize, moe: &MoeConfig) -> Result<Vec<Expert>> {
        if self.has("gate_up_proj") {
            return self.experts_together(hidden, moe);
        }
        let names =
            if self.child(0).has("w1.weight") { ["w1", "w3", "w2"] } else { ["gate_proj", "up_proj", "down_proj"] };
        (0..moe.num_experts).map(|n| self.child(n).expert(names, hidden, moe.intermediate_size)).collect()
    }

    fn expert(&self, [gate, up, down]: [&str; 3], hidden: usize, inner: usize) -> Result<Expert> {
        let gate_up = self.fused_linear("gate_up_proj", &[(gate, inner), (up, inner)], hidden, false)?;
        let down = self.linear(down, hidden, inner, false)?;
        Ok(Expert { gate_up: gate_up.weight, gate_up_bias: None, down: down.weight, down_bias: None })
    }

    fn experts_together(&self, hidden: usize, moe: &MoeConfig) -> Result<Vec<Expert>> {
        let (n, inner, format) = (moe.num_experts, moe.intermediate_size, self.loading.formats.linear);
        let gate_ups = self.matrices("gate_up_proj", n, 2 * inner, hidden)?;
        let downs = self.matrices("down_proj", n, hidden, inner)?;
        let expert = |(gate_up, down): (HostMatrix<'_>, HostMatrix<'_>)| {
            let (gate_up, down) = (self.pack(&[gate_up], format, None)?, self.pack(&[down], format, None)?);
            Ok(Expert { gate_up: gate_up.weight, gate_up_bias: None, down: down.weight, down_bias: None })
        };
        gate_ups.into_iter().zip(downs).map(expert).collect()
    }

    /// The matrices of a tensor `[n, rows, cols]`.
    pub(super) fn matrices(&self, name: &str, n: usize, rows: usize, cols: usize) -> Result<Vec<HostMatrix<'a>>> {
        let (dtype, view) = self.tensor(name, &[n, rows, cols])?;
        let matrices = view.bytes.chunks_exact((rows * cols * dtype.size()).max(1));
        matrices.map(|bytes| Ok(HostMatrix::new(dtype, rows, cols, bytes)?.released_by(view.file))).collect()
    }
}
