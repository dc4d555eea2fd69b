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
mod backend;
mod device;
mod driver;
mod error;
mod images;
mod kernels;
mod kv_cache;
mod linear;
mod memory;
mod modules;
mod moe;
mod view;
mod weight;

pub use backend::{CudaBackend, CudaOptions};
pub use driver::{Driver, probe};
pub use error::CudaError;
pub use kernels::{LAUNCHES, Launch};

/// The name of the backend.
pub(crate) const NAME: &str = "cuda";
