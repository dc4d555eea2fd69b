//! What a model is computed with: tensors, weights, the [`Backend`] trait and its reference implementation.
//!
//! ```text
//!   models ──► dyn Backend ◄── ReferenceBackend   candle, float32, defines what every op means
//!                          ◄── CpuBackend         rust/cpu
//!                          ◄── CudaBackend        rust/cuda
//! ```
//!
//! Everything here is device-neutral: a [`Tensor`] is a view of storage that only its backend can look into.

mod arena;
mod attention;
mod backend;
pub mod check;
pub mod conformance;
mod dtype;
mod error;
mod graph;
mod kv_cache;
mod kv_cache_groups;
mod lm_head;
pub mod moe;
pub mod quantize;
pub mod reference;
mod rope;
mod sampling;
mod tensor;
mod weight;

pub use arena::{Arena, checked_size};
pub use attention::{
    AttentionMetadata, AttentionParams, DisentangledParams, EncoderAttentionParams, GroupMetadata, QkRmsNorm,
};
pub use backend::{Activation, Backend, DeviceMemory};
pub use dtype::DType;
pub use error::{Error, Result};
pub use graph::{CapturedGraph, Graphs, NO_ROW, RowReader, Work};
pub use kv_cache::{KvCache, KvCacheDType, KvCacheLayer, KvCacheSpec};
pub use kv_cache_groups::{KvCacheGroup, KvCacheKind};
pub use lm_head::{LmHeadParams, Predictions};
pub use moe::{Expert, ExpertGroups, GatedActivation, GroupScore, Routing, RoutingParams, Scoring};
pub use reference::ReferenceBackend;
pub use rope::RopeTable;
pub use sampling::{DeviceSampler, LogitsEdits, LogprobsRequest, Penalties, RowLogprobs, SamplingRow};
pub use tensor::{Indices, Storage, Tensor};
pub use weight::{HostMatrix, Release, Weight, WeightFormat};
