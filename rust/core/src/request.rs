//! A request: one prompt, its sampling parameters, and what all its sequences share.

use std::sync::{Arc, OnceLock};

use crate::block_hash::BlockHash;
use crate::pooling::PoolingInput;
use crate::sampling_params::SamplingParams;

/// What a caller hands to [`Scheduler::add_request`](crate::Scheduler::add_request).
#[derive(Clone, Debug)]
pub struct Request {
    /// Name of the request, unique among the unfinished ones.
    pub request_id: String,
    /// The prompt, at least one token.
    pub prompt_token_ids: Arc<[u32]>,
    /// How to sample and when to stop.
    pub params: Arc<SamplingParams>,
    /// Lower runs earlier; read under [`SchedulingPolicy::Priority`](crate::SchedulingPolicy::Priority) only.
    pub priority: i32,
    /// Requests share cached blocks only with requests of the same salt.
    pub cache_salt: Option<String>,
    /// The request's seed, resolved by the caller; sequence `i` samples with `seed + i` (wrapping).
    pub seed: u64,
    /// What is made of the prompt, where nothing is generated and of `params` only the defaults are read.
    pub pooling: Option<Arc<PoolingInput>>,
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FinishReason {
    /// An end-of-sequence token (`None`), or the named token of `stop_token_ids`; `None` too where a prompt was pooled.
    Stop(Option<u32>),
    /// `max_tokens` or the model's length was reached.
    Length,
    /// The caller aborted the request.
    Abort,
    /// The sequence could not be computed.
    Error,
}

/// What the `n` sequences of a request have in common.
#[derive(Debug)]
pub(crate) struct RequestState {
    pub(crate) request_id: Arc<str>,
    pub(crate) prompt_token_ids: Arc<[u32]>,
    pub(crate) params: Arc<SamplingParams>,
    pub(crate) priority: i32,
    pub(crate) seed: u64,
    pub(crate) pooling: Option<Arc<PoolingInput>>,
    root_hash: BlockHash,
    stop_token_ids: Vec<u32>,
    prompt_hashes: OnceLock<Box<[BlockHash]>>,
}

impl RequestState {
    pub(crate) fn new(request: Request) -> Self {
        let mut stop_token_ids = request.params.stop_token_ids.clone();
        stop_token_ids.sort_unstable();
        Self {
            request_id: request.request_id.into(),
            prompt_token_ids: request.prompt_token_ids,
            params: request.params,
            priority: request.priority,
            seed: request.seed,
            pooling: request.pooling,
            root_hash: BlockHash::root(request.cache_salt.as_deref()),
            stop_token_ids,
            prompt_hashes: OnceLock::new(),
        }
    }

    /// Hashes of the full blocks of the prompt, computed once for all sequences of the request.
    pub(crate) fn prompt_hashes(&self, block_size: usize) -> &[BlockHash] {
        self.prompt_hashes.get_or_init(|| {
            let blocks = self.prompt_token_ids.chunks_exact(block_size);
            blocks
                .scan(self.root_hash, |parent, tokens| {
                    *parent = parent.chain(tokens);
                    Some(*parent)
                })
                .collect()
        })
    }

    /// The prompt's hashes if they were ever needed.
    pub(crate) fn known_prompt_hashes(&self) -> &[BlockHash] {
        self.prompt_hashes.get().map_or(&[], |hashes| hashes)
    }

    /// Parent of the first block: the salt's hash.
    pub(crate) fn root_hash(&self) -> BlockHash {
        self.root_hash
    }

    pub(crate) fn is_stop_token(&self, token_id: u32) -> bool {
        self.stop_token_ids.binary_search(&token_id).is_ok()
    }
}
