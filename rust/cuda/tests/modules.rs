//! Which image of a kernel file is loaded, and what is said where there is none: on the simulator alone, whose compiler says what
//! it was given.

use rustllm_cuda::{CudaError, compile_kernels, embedded_architectures, images, info};
use rustllm_cuda_simulator as simulator;

#[test]
fn every_file_is_embedded_with_all_it_includes() {
    if simulator::on_gpu() {
        return;
    }
    simulator::load();
    for image in images() {
        let compiled = compile_kernels(image.file, "sm_80").unwrap();
        let said = String::from_utf8_lossy(&compiled);
        assert!(said.starts_with(&format!("simulator: {}.cu ", image.file)), "{said}");
        assert!(said.contains("--gpu-architecture=sm_80") && said.contains("--fmad=false"), "{said}");
        assert_eq!(image.fatbin.is_some(), !embedded_architectures().is_empty(), "{}", image.file);
    }
}

#[test]
fn a_file_that_is_not_there_is_named() {
    if simulator::on_gpu() {
        return;
    }
    simulator::load();
    let error = compile_kernels("no_such_file", "sm_80").unwrap_err();
    assert!(matches!(&error, CudaError::NoImage { file, .. } if file == "no_such_file"), "{error}");
}

#[test]
fn a_machine_is_described() {
    if simulator::on_gpu() {
        return;
    }
    simulator::load();
    let info = info();
    assert_eq!(info.driver.unwrap().device_count, 1);
    assert_eq!(info.devices.len(), 1);
    assert_eq!((info.devices[0].name.as_str(), info.devices[0].compute_capability), ("CUDA simulator", (8, 0)));
    assert_eq!(info.devices[0].memory, 8 << 30);
    assert_eq!(info.nvrtc, Ok((0, 0)));
}
