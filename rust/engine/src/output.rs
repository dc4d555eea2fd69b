use std::sync::Arc;

use rustllm_core::{FinishReason, SamplingParams};

use crate::pooling::Pooled;
use crate::sampler::TokenLogprob;

/// A request as the engine takes it.
#[derive(Debug, Clone)]
pub struct EngineRequest {
    /// Name of the request in outputs; must not be in use.
    pub request_id: String,
    /// The prompt, at least one token.
    pub prompt_token_ids: Arc<[u32]>,
    /// How to sample and when to stop.
    pub params: Arc<SamplingParams>,
    /// Lower runs first under the priority policy.
    pub priority: i32,
    /// Requests share cached prefixes only with requests of the same salt.
    pub cache_salt: Option<String>,
}

/// An entry for each prompt token: what the model thought of it, `None` for the first.
pub type PromptLogprobs = Vec<Option<Vec<TokenLogprob>>>;

/// What one step produced for one sequence of a request.
#[derive(Debug, Clone)]
pub struct EngineOutput {
    /// The request's name.
    pub request_id: Arc<str>,
    /// Which of the request's `n` sequences.
    pub index: u32,
    /// The token generated, if any: none when the sequence was aborted or failed.
    pub token_id: Option<u32>,
    /// Logprobs at the token's position, the chosen token first.
    pub logprobs: Option<Vec<TokenLogprob>>,
    /// Once, with the first output of sequence 0.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// What was made of the prompt of a pooling request.
    pub pooled: Option<Pooled>,
    /// Set on the sequence's last output.
    pub finish_reason: Option<FinishReason>,
    /// What went wrong, where the finish reason is an error.
    pub error: Option<String>,
    /// Prompt tokens found in the prefix cache.
    pub num_cached_tokens: usize,
    /// How often the sequence has been preempted so far.
    pub num_preemptions: u32,
}

/// Counters and gauges of an engine at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Sequences that hold cache blocks.
    pub num_running: usize,
    /// Sequences that wait for them.
    pub num_waiting: usize,
    /// Cache blocks in all, for all groups of layers.
    pub num_blocks: usize,
    /// Cache blocks no running sequence holds; cached prefixes count as free.
    pub num_free_blocks: usize,
    /// Preemptions so far.
    pub num_preemptions: u64,
    /// Steps so far.
    pub num_steps: u64,
    /// Prompt tokens of admitted sequences so far.
    pub prompt_tokens: u64,
    /// Tokens generated so far.
    pub generation_tokens: u64,
    /// Prompt tokens looked up in the prefix cache so far.
    pub prefix_cache_queries: u64,
    /// Prompt tokens found there so far.
    pub prefix_cache_hits: u64,
}
