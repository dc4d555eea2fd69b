//! The CUDA backend: kernels of `cuda/*.cu`, launched through the driver that the machine has.
//!
//! ```text
//!   backend   every op: operands checked, memory taken from the arena, a kernel launched
//!   kernels   the launch table: names and arguments          device    context, stream, launches, copies
//!   modules   which image of a kernel file the GPU runs       memory, arena, weight, kv_cache: what is kept on it
//! ```
//!
//! Nothing of CUDA is needed to build it or to load it: the driver is looked for by [`probe`] when a device is opened. Ops
//! return once they are submitted to one stream, which does them in order; [`read_rows`](rustllm_ops::Backend::read_rows)
//! waits.

mod arena;
mod argmax;
mod backend;
mod device;
mod driver;
mod error;
mod images;
mod kernels;
mod kv_cache;
mod linear;
mod logits;
mod logprobs;
mod memory;
mod modules;
mod moe;
mod sampling;
mod view;
mod weight;

pub use backend::{CudaBackend, CudaOptions};
pub use driver::{Driver, probe};
pub use error::CudaError;
pub use kernels::{LAUNCHES, Launch};
pub use logits::{LogitsEdits, Penalties};
pub use logprobs::{LogprobsRequest, MAX_LOGPROBS, RowLogprobs};
pub use sampling::{Drawn, Samples, SamplingRow};

/// The name of the backend.
pub(crate) const NAME: &str = "cuda";
