use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use rustllm_cuda as cuda;

/// What of CUDA this machine has, and which kernels the build has for it.
#[pyfunction]
pub(crate) fn cuda_info(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let info = py.detach(cuda::info);
    let devices = PyList::empty(py);
    for device in &info.devices {
        let fields = PyDict::new(py);
        fields.set_item("name", &device.name)?;
        fields.set_item("compute_capability", device.compute_capability)?;
        fields.set_item("memory", device.memory)?;
        devices.append(fields)?;
    }
    let found = PyDict::new(py);
    found.set_item("error", info.driver.as_ref().err().map(ToString::to_string))?;
    found.set_item("cuda_version", info.driver.ok().map(|driver| parts(driver.cuda_version)))?;
    found.set_item("devices", devices)?;
    found.set_item("kernel_architectures", cuda::embedded_architectures())?;
    found.set_item("cublas_lt", info.cublas_lt)?;
    found.set_item("nvrtc", info.nvrtc.ok())?;
    Ok(found)
}

/// CUDA numbers its versions `1000 * major + 10 * minor`.
fn parts(version: i32) -> (i32, i32) {
    (version / 1000, version % 1000 / 10)
}
