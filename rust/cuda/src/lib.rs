//! The CUDA backend: kernels of `cuda/*.cu`, launched through the driver that the machine has.
//!
//! ```text
//!   backend   every op: operands checked, memory taken from the arena, a kernel launched
//!   graph     ops recorded once, launched together again and again
//!   kernels   the launch table: names and arguments
//!   modules   which image of a kernel file the GPU runs: images (embedded), nvrtc, image_cache
//!   device    context, stream, launches, copies
//!   memory, buffer, weight, weight_arena, kv_cache, upload   what is kept in the device's memory, and how it comes there
//!   info      what a machine has, for people
//! ```
//!
//! Nothing of CUDA is needed to build it or to load it: the driver is looked for by [`probe`] when a device is opened. Ops
//! return once they are submitted to one stream, which does them in order; [`read_rows`](rustllm_ops::Backend::read_rows)
//! waits.

mod argmax;
mod attention;
mod backend;
mod buffer;
mod chain;
mod device;
mod driver;
mod encoder_attention;
mod encoder_distances;
mod error;
mod gemm;
mod graph;
mod image_cache;
mod images;
mod info;
mod kernels;
mod kv_cache;
mod linear;
mod logits;
mod logprobs;
mod memory;
mod modules;
mod moe;
mod nvrtc;
mod pinned;
mod sampling;
mod upload;
mod view;
mod weight;
mod weight_arena;

pub use backend::{CudaBackend, CudaOptions};
pub use driver::{Driver, probe};
pub use error::CudaError;
pub use images::{Image, embedded_architectures, images};
pub use info::{CudaInfo, DeviceInfo, info};
pub use kernels::{LAUNCHES, Launch};
pub use modules::compile_kernels;

/// The name of the backend.
pub(crate) const NAME: &str = "cuda";
