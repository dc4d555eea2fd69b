use rustllm_ops::{GatedActivation, RoutingParams};

/// The layers whose feed-forward is a mixture of experts.
#[derive(Debug, Clone, PartialEq)]
pub struct MoeConfig {
    /// Experts of a layer.
    pub num_experts: usize,
    /// Width inside an expert.
    pub intermediate_size: usize,
    /// How a token's experts are chosen and weighted.
    pub routing: RoutingParams,
    /// Whether the router has a bias on the scores it chooses by.
    pub correction_bias: bool,
    /// Inside an expert.
    pub activation: GatedActivation,
    /// What every token goes through besides its experts.
    pub shared: Option<SharedExpertConfig>,
    /// Which layers are mixtures; the others are dense. One entry a layer.
    pub sparse_layers: Vec<bool>,
}

/// An expert of all tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SharedExpertConfig {
    /// Width inside.
    pub intermediate_size: usize,
    /// Whether a gate decides how much of it counts.
    pub gated: bool,
}
