//! The CPU backend: SIMD kernels chosen at run time, a thread pool of our own.
//!
//! ```text
//!   backend        the ops of `Backend`: checks, memory, and what runs on which thread
//!     linear  attend  moe  encoder_attend     how an op is cut into tasks
//!     pool  buffer  memory    threads, and where results live
//!     kernels                 tables of function pointers, one an instruction set
//!       gemm  attention  norm  elementwise  math      kernels, written once over ...
//!         simd                                        ... sixteen lanes of scalar, AVX2, AVX-512 or NEON
//!     pack  kv_cache          layouts of weights and of the paged cache
//! ```
//!
//! Every output has one order of arithmetic, which neither the rows beside it nor threads, chunks, blocks or the instruction
//! set change: results are equal bit for bit (with the one exception that [`Isa`] names).

mod argmax;
mod attend;
mod attention;
mod attention_scores;
mod attention_tile;
mod backend;
mod buffer;
mod elementwise;
mod encoder_attend;
mod encoder_distances;
mod error;
mod gemm;
mod isa;
mod kernels;
mod kv_cache;
mod linear;
mod math;
mod memory;
mod moe;
mod norm;
mod pack;
mod pool;
mod probe;
mod route;
mod simd;
mod step;
mod view;

pub use backend::{CpuBackend, CpuOptions};
pub use error::CpuError;
pub use isa::{Isa, available_isas, select_isa};
pub use pool::{MAX_THREADS, default_num_threads};
