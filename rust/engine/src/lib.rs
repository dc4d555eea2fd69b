//! The engine: a scheduler's decisions carried out on a model, a step at a time.
//!
//! ```text
//!   EngineHandle ──commands──► engine thread ──outputs──► EngineHandle::step
//!                              │ Engine::step                on a GPU Engine::step_overlapped, which begins the next meanwhile
//!                              │   scheduler.schedule()      which tokens of which sequences
//!                              │   runner.execute()          forward, predict, sample
//!                              │   scheduler.update()        append, finish, free
//! ```
//!
//! Token ids in; token ids, or what is made of a prompt, out: text is the caller's business.

mod batch;
mod config;
mod decode_graphs;
mod device;
mod device_sampling;
mod engine;
mod error;
mod handle;
mod limits;
mod load;
mod memory;
mod model_runner;
mod output;
mod overlapped;
mod pooling;
mod profile;
pub mod sampler;
mod sampling;

pub use config::{EngineConfig, GIB};
pub use device::Device;
pub use engine::Engine;
pub use error::{EngineError, InvalidArgument};
pub use handle::EngineHandle;
pub use limits::{Limits, PoolingLimits};
pub use load::{LoadListener, ModelInfo};
pub use output::{EngineOutput, EngineRequest, EngineStats, PromptLogprobs};
pub use pooling::{Pooled, PoolingRequest};
pub use rustllm_models::{Convert, Runner, supported_architectures};
pub use rustllm_ops::{DType, KvCacheDType};
