use cudarc::driver::result::device;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use crate::nvrtc::Nvrtc;
use crate::{CudaError, Driver, gemm, probe};

/// What of CUDA a machine has.
#[derive(Debug)]
pub struct CudaInfo {
    /// The driver, or why it cannot be used.
    pub driver: Result<Driver, CudaError>,
    /// The GPUs that the driver sees, in its order.
    pub devices: Vec<DeviceInfo>,
    /// Whether the library of matrix products is found.
    pub cublas_lt: bool,
    /// The release of the run-time compiler, or why it cannot be used.
    pub nvrtc: Result<(i32, i32), String>,
}

/// A GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceInfo {
    /// What the driver calls it.
    pub name: String,
    /// Its generation, and its place within it.
    pub compute_capability: (i32, i32),
    /// Its memory in bytes.
    pub memory: usize,
}

/// Looks around. Nothing is started on a GPU.
pub fn info() -> CudaInfo {
    let driver = probe();
    let ordinals = 0..driver.as_ref().map_or(0, |driver| driver.device_count);
    CudaInfo {
        devices: ordinals.map_while(device_info).collect(),
        driver,
        cublas_lt: gemm::is_installed(),
        nvrtc: Nvrtc::find().map(|nvrtc| nvrtc.version()),
    }
}

fn device_info(ordinal: usize) -> Option<DeviceInfo> {
    let device = device::get(i32::try_from(ordinal).ok()?).ok()?;
    // SAFETY: the device is one that the driver gave.
    let attribute = |attribute| unsafe { device::get_attribute(device, attribute) }.ok();
    Some(DeviceInfo {
        name: device::get_name(device).ok()?,
        compute_capability: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        // SAFETY: the device is one that the driver gave.
        memory: unsafe { device::total_mem(device) }.ok()?,
    })
}
