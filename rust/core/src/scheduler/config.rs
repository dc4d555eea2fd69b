//! The scheduler's settings and the errors of its door.

use crate::block_hash::BlockHash;
use crate::kv_cache_groups::KvCacheGroups;
use crate::sampling_params::ParamError;

/// Which sequence goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SchedulingPolicy {
    /// In order of arrival.
    #[default]
    Fcfs,
    /// By `Request::priority`, lower first, then in order of arrival.
    Priority,
}

/// Settings of a [`Scheduler`](crate::Scheduler).
#[derive(Clone, Debug)]
pub struct SchedulerConfig {
    /// Most sequences that run at once.
    pub max_num_seqs: usize,
    /// Most tokens computed in a step, over all sequences.
    pub max_num_batched_tokens: usize,
    /// Most tokens of a sequence, prompt and output.
    pub max_model_len: usize,
    /// Tokens in a KV block.
    pub block_size: usize,
    /// KV blocks there are, for all groups of layers.
    pub num_blocks: usize,
    /// Of each group of layers, how many positions it sees; all before where `None`. See [`KvCacheGroups`].
    pub sliding_windows: Vec<Option<usize>>,
    /// Whether blocks are shared between sequences of the same prefix.
    pub enable_prefix_caching: bool,
    /// Whether a prompt may be computed in several steps. If not, `max_num_batched_tokens` must reach `max_model_len`.
    pub enable_chunked_prefill: bool,
    /// Which sequence goes first.
    pub policy: SchedulingPolicy,
    /// Tokens that end a sequence unless its `ignore_eos` is set.
    pub eos_token_ids: Vec<u32>,
}

/// A setting out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} must be {allowed}, got {value}.")]
pub struct ConfigError {
    /// Name of the setting.
    pub field: &'static str,
    /// The value it had.
    pub value: usize,
    /// What is allowed.
    pub allowed: &'static str,
}

impl SchedulerConfig {
    /// Checks every setting.
    ///
    /// # Errors
    /// The first setting out of its range.
    pub fn verify(&self) -> Result<(), ConfigError> {
        for (field, value) in [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_model_len", self.max_model_len),
            ("block_size", self.block_size),
            ("num_blocks", self.num_blocks),
        ] {
            if value == 0 {
                return Err(ConfigError { field, value, allowed: "at least 1" });
            }
        }
        for (field, value) in
            [("block_size", self.block_size), ("num_blocks", self.num_blocks), ("max_model_len", self.max_model_len)]
        {
            if value >= u32::MAX as usize {
                return Err(ConfigError { field, value, allowed: "less than 2^32 - 1" });
            }
        }
        if !self.enable_chunked_prefill && self.max_num_batched_tokens < self.max_model_len {
            let allowed = "at least max_model_len where prompts are computed in one step";
            return Err(ConfigError { field: "max_num_batched_tokens", value: self.max_num_batched_tokens, allowed });
        }
        self.verify_groups()
    }

    fn verify_groups(&self) -> Result<(), ConfigError> {
        let num_groups = self.sliding_windows.len();
        if !(1..=BlockHash::MAX_GROUPS).contains(&num_groups) {
            return Err(ConfigError { field: "sliding_windows", value: num_groups, allowed: "of 1 to 256 groups" });
        }
        if self.sliding_windows.contains(&Some(0)) {
            return Err(ConfigError { field: "sliding_windows", value: 0, allowed: "None or at least 1" });
        }
        Ok(())
    }

    /// What decides how many blocks sequences hold.
    pub fn kv_cache_groups(&self) -> KvCacheGroups {
        KvCacheGroups {
            sliding_windows: self.sliding_windows.clone(),
            block_size: self.block_size,
            max_num_batched_tokens: self.max_num_batched_tokens,
        }
    }
}

/// Why a request was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddRequestError {
    /// An unfinished request has this id.
    #[error("request_id {request_id:?} is already in use by an unfinished request.")]
    DuplicateRequestId {
        /// The id.
        request_id: String,
    },
    /// The prompt has no tokens.
    #[error("The decoder prompt cannot be empty.")]
    EmptyPrompt,
    /// The prompt leaves no room for an output token.
    #[error(
        "The decoder prompt (length {num_prompt_tokens}) plus the number of requested output tokens (at least 1) is \
         longer than the maximum model length of {max_model_len}. Make sure that `max_model_len` is no smaller than \
         the number of text tokens plus one."
    )]
    PromptTooLong {
        /// Tokens in the prompt.
        num_prompt_tokens: usize,
        /// Most tokens of a sequence.
        max_model_len: usize,
    },
    /// The longest sequence that the request may produce does not fit into the KV cache even alone.
    #[error(
        "The request may need {num_tokens} tokens in the KV cache (prompt of {num_prompt_tokens} and its output), which \
         is more than its {num_blocks} blocks of {block_size} tokens hold of one sequence ({capacity}). Lower \
         max_tokens or max_model_len, or give the cache more blocks."
    )]
    TooLongForCache {
        /// Tokens whose keys and values the sequence may need at once.
        num_tokens: usize,
        /// Tokens in the prompt.
        num_prompt_tokens: usize,
        /// Tokens of the longest sequence that fits.
        capacity: usize,
        /// Blocks of the cache.
        num_blocks: usize,
        /// Tokens in a block.
        block_size: usize,
    },
    /// A sampling parameter is out of its range.
    #[error(transparent)]
    InvalidParams(#[from] ParamError),
    /// More sequences are queued than the scheduler can number.
    #[error("{num_sequences} more sequences do not fit into the queue.")]
    QueueFull {
        /// Sequences that the request asked for.
        num_sequences: usize,
    },
}
