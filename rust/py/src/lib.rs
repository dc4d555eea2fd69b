//! `rustllm._core`: the engine as Python sees it. `python/rustllm/_core.pyi` documents every name here.

mod cuda;
mod engine;
mod errors;
mod pooling;
mod sampling_params;

use pyo3::prelude::*;
use rustllm_cpu as cpu;

#[pymodule]
mod _core {
    #[pymodule_export]
    use super::cuda::cuda_info;
    #[pymodule_export]
    use super::engine::{Engine, EngineOutput, EngineStats, ModelInfo};
    #[pymodule_export]
    use super::pooling::PoolingParams;
    #[pymodule_export]
    use super::sampling_params::check_sampling_params;
    use super::{Bound, PyModule, PyModuleMethods, PyResult, Python, errors};
    #[pymodule_export]
    use super::{available_isas, default_num_threads, selected_isa, supported_architectures};

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        let py: Python<'_> = module.py();
        for name in errors::NAMES {
            module.add(name, errors::class(py, name)?)?;
        }
        Ok(())
    }
}

/// Instruction sets this machine's CPU kernels can use, best last.
#[pyfunction]
fn available_isas() -> Vec<String> {
    cpu::available_isas().iter().map(ToString::to_string).collect()
}

/// The instruction set in use: the best available, or what `RUSTLLM_ISA` forces.
#[pyfunction]
fn selected_isa(py: Python<'_>) -> PyResult<String> {
    match cpu::select_isa() {
        Ok(isa) => Ok(isa.to_string()),
        Err(error) => Err(errors::validation(py, &error.to_string(), Some("RUSTLLM_ISA"), None)),
    }
}

/// Compute threads an engine starts when not told: the cores this process may use.
#[pyfunction]
fn default_num_threads() -> usize {
    cpu::default_num_threads()
}

/// The `architectures` entries of config.json that can be loaded, sorted.
#[pyfunction]
fn supported_architectures() -> Vec<String> {
    rustllm_engine::supported_architectures()
}
