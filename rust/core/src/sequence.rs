//! One output sequence of a request.

use std::sync::Arc;

use crate::block_hash::BlockHash;
use crate::block_table::BlockTable;
use crate::pooling::PoolingInput;
use crate::request::{FinishReason, RequestState};
use crate::sampling_params::SamplingParams;

/// Room for output tokens that a sequence starts with; it grows as needed.
const INITIAL_OUTPUT_CAPACITY: usize = 64;

/// Identity of a sequence, never used again; later sequences compare greater. Opaque.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SeqId(pub u64);

/// Where a sequence stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SequenceStatus {
    /// Queued, never run.
    Waiting,
    /// Holds blocks and takes part in the steps.
    Running,
    /// Queued again after its blocks were taken; will recompute, mostly from the prefix cache.
    Preempted,
    /// Over.
    Finished(FinishReason),
}

/// One output sequence: its tokens, how many of them are computed, and the blocks that hold their keys and values.
///
/// ```text
///   token_ids      [ prompt ............ | output ...... ]
///   computed       [========================]               <- num_computed_tokens, counted when scheduled
///   block_table    [ b7 ][ b2 ][ b9 ][ b4 ]                 <- ceil(num_computed_tokens / block_size) rows
/// ```
#[derive(Debug)]
pub struct Sequence {
    seq_id: SeqId,
    request: Arc<RequestState>,
    index: u32,
    pub(crate) status: SequenceStatus,
    /// Prompt and output; empty until the sequence first runs, so that a long queue of `n` sequences stays small.
    tokens: Vec<u32>,
    pub(crate) num_computed_tokens: usize,
    pub(crate) block_table: BlockTable,
    /// Hashes of the full blocks after the prompt's own.
    output_hashes: Vec<BlockHash>,
    pub(crate) num_cached_tokens: usize,
    pub(crate) num_preemptions: u32,
    /// Steps that were scheduled with this sequence and not updated yet.
    pub(crate) num_steps_in_flight: u32,
}

impl Sequence {
    /// A queued sequence of a model with `num_groups` groups of layers.
    pub(crate) fn new(seq_id: SeqId, request: Arc<RequestState>, index: u32, num_groups: usize) -> Self {
        Self {
            seq_id,
            request,
            index,
            status: SequenceStatus::Waiting,
            tokens: Vec::new(),
            num_computed_tokens: 0,
            block_table: BlockTable::new(num_groups),
            output_hashes: Vec::new(),
            num_cached_tokens: 0,
            num_preemptions: 0,
            num_steps_in_flight: 0,
        }
    }

    /// The sequence's identity.
    pub fn seq_id(&self) -> SeqId {
        self.seq_id
    }

    /// The request it belongs to.
    pub fn request_id(&self) -> &Arc<str> {
        &self.request.request_id
    }

    /// Its place among the request's sequences, 0 to `n - 1`.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// Prompt and output.
    pub fn token_ids(&self) -> &[u32] {
        if self.tokens.is_empty() { &self.request.prompt_token_ids } else { &self.tokens }
    }

    /// Number of tokens in prompt and output.
    pub fn num_tokens(&self) -> usize {
        self.token_ids().len()
    }

    /// Number of tokens in the prompt.
    pub fn num_prompt_tokens(&self) -> usize {
        self.request.prompt_token_ids.len()
    }

    /// Number of tokens generated so far.
    pub fn num_output_tokens(&self) -> usize {
        self.num_tokens() - self.num_prompt_tokens()
    }

    /// The prompt.
    pub fn prompt_token_ids(&self) -> &[u32] {
        &self.request.prompt_token_ids
    }

    /// The tokens generated so far.
    pub fn output_token_ids(&self) -> &[u32] {
        &self.token_ids()[self.num_prompt_tokens()..]
    }

    /// How it samples and when it stops.
    pub fn params(&self) -> &Arc<SamplingParams> {
        &self.request.params
    }

    /// What is made of its prompt, if it generates nothing.
    pub fn pooling(&self) -> Option<&Arc<PoolingInput>> {
        self.request.pooling.as_ref()
    }

    /// Tokens whose keys and values are in its blocks, those of scheduled steps included.
    pub fn num_computed_tokens(&self) -> usize {
        self.num_computed_tokens
    }

    /// Its blocks.
    pub fn block_table(&self) -> &BlockTable {
        &self.block_table
    }

    /// Prompt tokens found in the prefix cache when it first ran.
    pub fn num_cached_tokens(&self) -> usize {
        self.num_cached_tokens
    }

    /// How often it lost its blocks.
    pub fn num_preemptions(&self) -> u32 {
        self.num_preemptions
    }

    /// Seed of its random numbers: the request's plus its index, wrapping.
    pub fn seed(&self) -> u64 {
        self.request.seed.wrapping_add(u64::from(self.index))
    }

    /// Where it stands.
    pub fn status(&self) -> SequenceStatus {
        self.status
    }

    /// True once it ended, for whatever reason.
    pub fn is_finished(&self) -> bool {
        matches!(self.status, SequenceStatus::Finished(_))
    }

    /// True when the logits of its prompt are wanted. The prompt is the same for all sequences of a request, so only
    /// the first one answers; it never skips tokens by the prefix cache, whose blocks hold no logits.
    pub fn computes_prompt_logprobs(&self) -> bool {
        self.index == 0 && self.request.params.prompt_logprobs.is_some()
    }

    /// True when all its tokens have to be computed, whatever the prefix cache has of them.
    pub(crate) fn skips_prefix_cache(&self) -> bool {
        self.computes_prompt_logprobs() || self.pooling().is_some_and(|pooling| pooling.skip_reading_prefix_cache)
    }

    /// Place in the queues: lower runs earlier.
    pub(crate) fn priority(&self) -> i32 {
        self.request.priority
    }

    pub(crate) fn request(&self) -> &RequestState {
        &self.request
    }

    /// Tokens still to compute. None either where the next token is computed before it is known.
    pub(crate) fn num_remaining_tokens(&self) -> usize {
        self.num_tokens().saturating_sub(self.num_computed_tokens)
    }

    /// Whether `num_more` tokens more are all it may get.
    pub(crate) fn ends_by_length(&self, num_more: usize, max_model_len: usize) -> bool {
        let max_tokens = self.params().max_tokens.map_or(usize::MAX, |max_tokens| max_tokens as usize);
        self.num_output_tokens() + num_more >= max_tokens || self.num_tokens() + num_more >= max_model_len
    }

    /// Gives the sequence its own token list before it first runs.
    pub(crate) fn start(&mut self) {
        self.status = SequenceStatus::Running;
        if self.tokens.is_empty() {
            let prompt = &self.request.prompt_token_ids;
            self.tokens.reserve_exact(prompt.len() + INITIAL_OUTPUT_CAPACITY);
            self.tokens.extend_from_slice(prompt);
        }
    }

    pub(crate) fn append(&mut self, token_id: u32) {
        debug_assert!(!self.tokens.is_empty(), "a sequence samples after it started");
        self.tokens.push(token_id);
    }

    /// The hash of full block `index`, computed once.
    pub(crate) fn block_hash(&mut self, index: usize, block_size: usize) -> BlockHash {
        let prompt_hashes = self.request.prompt_hashes(block_size);
        let num_prompt_blocks = prompt_hashes.len();
        if let Some(hash) = prompt_hashes.get(index) {
            return *hash;
        }
        let last_of_prompt = prompt_hashes.last().copied();
        while self.output_hashes.len() <= index - num_prompt_blocks {
            let start = (num_prompt_blocks + self.output_hashes.len()) * block_size;
            let parent = self.output_hashes.last().copied().or(last_of_prompt);
            let parent = parent.unwrap_or_else(|| self.request.root_hash());
            let hash = parent.chain(&self.token_ids()[start..start + block_size]);
            self.output_hashes.push(hash);
        }
        self.output_hashes[index - num_prompt_blocks]
    }

    /// The hash of full block `index` if it was ever needed.
    pub(crate) fn known_block_hash(&self, index: usize) -> Option<BlockHash> {
        let prompt = self.request.known_prompt_hashes();
        prompt.get(index).or_else(|| self.output_hashes.get(index.checked_sub(prompt.len())?)).copied()
    }
}
