//! rustllm: a language-model inference engine.
//!
//! This package is a facade over the workspace's crates, so that the benchmarks, tests and examples at the top of
//! the repository see them under one name. `docs/architecture.md` says which crate owns what and who may import whom.

pub use rustllm_core as core;
pub use rustllm_cpu as cpu;
pub use rustllm_engine as engine;
pub use rustllm_models as models;
pub use rustllm_ops as ops;
