//! The driver, looked for before anything is asked of it: cudarc panics where there is none.

use std::ffi::{CStr, c_char, c_int};

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};

use crate::CudaError;

/// CUDA 13.0, as `cuDriverGetVersion` numbers it: what the kernels and the bindings are built for.
const MIN_VERSION: i32 = 13_000;

/// What this machine's driver offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Driver {
    /// The CUDA version it supports, `1000 * major + 10 * minor`.
    pub cuda_version: i32,
    /// GPUs it sees.
    pub device_count: usize,
}

/// Finds the driver.
///
/// # Errors
/// [`CudaError`] where there is none, or one too old.
pub fn probe() -> Result<Driver, CudaError> {
    // SAFETY: the initializers of a driver's library do nothing that a process need prepare for.
    let library = unsafe { Library::open(Some("libcuda.so.1"), RTLD_NOW | RTLD_GLOBAL) };
    let library = library.map_err(|error| CudaError::NoDriver(cause(&error)))?;
    let cuda_version = ask(&library, "tell its version", b"cuDriverGetVersion\0")?;
    if cuda_version < MIN_VERSION {
        return Err(CudaError::OldDriver(cuda_version));
    }
    initialize(&library)?;
    let device_count = ask(&library, "count devices", b"cuDeviceGetCount\0")?;
    // The driver stays loaded: the bindings open it again by name, and cannot do without.
    std::mem::forget(library);
    Ok(Driver { cuda_version, device_count: usize::try_from(device_count).unwrap_or(0) })
}

/// What the loader said, which the error itself leaves to its source.
fn cause(error: &libloading::Error) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn missing(what: &'static str) -> impl Fn(libloading::Error) -> CudaError {
    move |error| CudaError::Driver { what, message: cause(&error) }
}

fn refused(library: &Library, what: &'static str, result: c_int) -> Result<(), CudaError> {
    match result {
        0 => Ok(()),
        // CUDA_ERROR_NO_DEVICE, which `cuInit` answers on a machine whose driver has nothing to drive.
        100 => Err(CudaError::NoDevice { ordinal: 0, count: 0 }),
        error => {
            let name = name_of(library, error).map_or_else(String::new, |name| format!("{name}, "));
            Err(CudaError::Driver { what, message: format!("{name}error {error}") })
        }
    }
}

/// What the driver calls an error.
fn name_of(library: &Library, error: c_int) -> Option<String> {
    type GetErrorName = unsafe extern "C" fn(c_int, *mut *const c_char) -> c_int;
    let mut name = std::ptr::null();
    // SAFETY: the function has this type since CUDA 6; what it gives is null or a string that stays.
    unsafe {
        library.get::<GetErrorName>(b"cuGetErrorName\0").ok()?(error, &mut name);
        (!name.is_null()).then(|| CStr::from_ptr(name).to_string_lossy().into_owned())
    }
}

/// Calls one of the driver's functions that answer with a number.
fn ask(library: &Library, what: &'static str, symbol: &[u8]) -> Result<c_int, CudaError> {
    type Ask = unsafe extern "C" fn(*mut c_int) -> c_int;
    let mut answer = 0;
    // SAFETY: the functions asked for have this type since the first CUDA, and write one number.
    let result = unsafe { library.get::<Ask>(symbol).map_err(missing(what))?(&mut answer) };
    refused(library, what, result).map(|()| answer)
}

fn initialize(library: &Library) -> Result<(), CudaError> {
    type Init = unsafe extern "C" fn(u32) -> c_int;
    // SAFETY: the function has this type since the first CUDA.
    refused(library, "start", unsafe { library.get::<Init>(b"cuInit\0").map_err(missing("start"))?(0) })
}
