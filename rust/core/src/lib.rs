//! rustllm's scheduler, block manager and sampling parameters: which tokens of which sequences a step computes, and
//! where their keys and values lie. No tensors, devices, text, threads or clock.
//!
//! A step is three lines:
//!
//! ```
//! use std::sync::Arc;
//! use rustllm_core::{Request, SamplingParams, Scheduler, SchedulerConfig, SchedulingPolicy};
//!
//! let mut scheduler = Scheduler::new(SchedulerConfig {
//!     max_num_seqs: 8,
//!     max_num_batched_tokens: 512,
//!     max_model_len: 1024,
//!     block_size: 16,
//!     num_blocks: 64,
//!     sliding_windows: vec![None],
//!     enable_prefix_caching: true,
//!     enable_chunked_prefill: true,
//!     policy: SchedulingPolicy::Fcfs,
//!     eos_token_ids: vec![2],
//! })?;
//! scheduler.add_request(Request {
//!     request_id: "0".to_owned(),
//!     prompt_token_ids: Arc::from([5, 6, 7]),
//!     params: Arc::new(SamplingParams { max_tokens: Some(4), ..SamplingParams::default() }),
//!     priority: 0,
//!     cache_salt: None,
//!     seed: 0,
//!     pooling: None,
//! })?;
//! let mut num_tokens = 0;
//! while scheduler.has_unfinished() {
//!     let output = scheduler.schedule();
//!     let sampled: Vec<_> = output.sequences.iter().map(|s| s.samples.then_some(9)).collect(); // the model's part
//!     num_tokens += scheduler.update(&output, &sampled).len();
//! }
//! assert_eq!(num_tokens, 4);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod block_hash;
mod block_manager;
mod block_pool;
mod block_table;
mod kv_cache_groups;
mod pooling;
mod request;
mod sampling_params;
mod scheduler;
mod sequence;
mod sequence_table;

pub use block_hash::BlockHash;
pub use block_pool::{BlockId, BlockPool};
pub use block_table::BlockTable;
pub use kv_cache_groups::KvCacheGroups;
pub use pooling::{PoolingInput, PoolingParams, PoolingTask};
pub use request::{FinishReason, Request};
pub use sampling_params::{GREEDY_TEMPERATURE, MAX_BAD_WORDS, MAX_N, ParamError, SamplingParams};
pub use scheduler::{
    AddRequestError, ConfigError, ScheduledSequence, Scheduler, SchedulerConfig, SchedulerOutput, SchedulerStats,
    SchedulingPolicy, SequenceUpdate,
};
pub use sequence::{SeqId, Sequence, SequenceStatus};
