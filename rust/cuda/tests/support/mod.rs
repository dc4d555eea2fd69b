//! The device that tests run on: the simulator, or with `RUSTLLM_TEST_GPU=1` the machine's GPU.

#![allow(dead_code, reason = "each test binary uses its own part")]

use rustllm_cuda::{CudaBackend, CudaOptions};
use rustllm_cuda_simulator::{on_gpu, use_cuda_device};

/// With the products that are fastest.
pub fn backend() -> CudaBackend {
    open(CudaOptions::default())
}

/// Whose results may not depend on the batch, products of 16-bit weights included.
pub fn deterministic_backend() -> CudaBackend {
    open(CudaOptions { deterministic: true, ..CudaOptions::default() })
}

fn open(options: CudaOptions) -> CudaBackend {
    use_cuda_device();
    let backend = CudaBackend::new(options).expect("a device");
    if on_gpu() {
        eprintln!("on {}", backend.device_name());
    }
    backend
}
