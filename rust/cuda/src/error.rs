use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;
use rustllm_ops::Error;

use crate::NAME;

/// Why a machine's GPU cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CudaError {
    /// There is no driver.
    #[error("no CUDA driver was found (libcuda.so.1: {0}): is there an NVIDIA GPU, with driver {MIN_DRIVER} or newer?")]
    NoDriver(String),
    /// The driver is older than what the kernels are built for.
    #[error(
        "the NVIDIA driver supports CUDA {}.{}, this build needs 13.0: driver {MIN_DRIVER} or newer",
        .0 / 1000, .0 % 1000 / 10
    )]
    OldDriver(i32),
    /// The driver sees no GPU, or not the one asked for.
    #[error("there is no CUDA device {ordinal}: the driver sees {count}")]
    NoDevice {
        /// The device asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is of a generation without kernels.
    #[error("{name} has compute capability {major}.{minor}: 8.0 (Ampere) or newer is needed")]
    OldDevice {
        /// What the driver calls the device.
        name: String,
        /// Its generation.
        major: i32,
        /// Its place within the generation.
        minor: i32,
    },
    /// A call the driver refused.
    #[error("the CUDA driver refused to {what}: {message}")]
    Driver {
        /// What was asked of it.
        what: &'static str,
        /// Its answer.
        message: String,
    },
    /// Kernels have to be compiled, and nothing here compiles them.
    #[error(
        "the kernels of cuda/{file}.cu have to be compiled here, and {message}: `pip install 'rustllm[cuda-jit]'` \
         (the package nvidia-cuda-nvrtc)"
    )]
    NoCompiler {
        /// The file.
        file: String,
        /// Where a compiler was looked for.
        message: String,
    },
    /// Kernels that do not compile.
    #[error("cuda/{file}.cu does not compile for {architecture}: {log}")]
    Compile {
        /// The file.
        file: String,
        /// The architecture it was compiled for.
        architecture: String,
        /// What the compiler says.
        log: String,
    },
    /// No image of the kernels that this GPU can run.
    #[error("the kernels of cuda/{file}.cu cannot be loaded: {message}")]
    NoImage {
        /// The file.
        file: String,
        /// What was tried.
        message: String,
    },
}

/// The oldest driver with CUDA 13.0.
const MIN_DRIVER: &str = "580";

impl CudaError {
    /// Whether there is a GPU that could be used if something else were different.
    pub fn concerns_a_gpu(&self) -> bool {
        !matches!(self, Self::NoDriver(_) | Self::NoDevice { count: 0, .. })
    }

    pub(crate) fn driver(what: &'static str) -> impl Fn(DriverError) -> Self {
        move |error| Self::Driver { what, message: describe(error) }
    }
}

impl From<CudaError> for Error {
    fn from(error: CudaError) -> Self {
        Self::Backend { backend: NAME, message: error.to_string() }
    }
}

/// What the driver answered, by name where it has one.
pub(crate) fn describe(error: DriverError) -> String {
    match (error.error_name(), error.error_string()) {
        (Ok(name), Ok(text)) => format!("{} ({})", name.to_string_lossy(), text.to_string_lossy()),
        _ => format!("error {}", error.0 as i32),
    }
}

/// An op's failure.
pub(crate) fn op_error(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |error| {
        let refused = CudaError::driver(what)(error);
        if is_final(error.0) {
            return Error::DeviceLost { backend: NAME, message: refused.to_string() };
        }
        refused.into()
    }
}

/// Whether the driver answers so once a kernel has broken the context, to all that is asked of it from then on.
fn is_final(code: CUresult) -> bool {
    matches!(
        code,
        CUresult::CUDA_ERROR_ECC_UNCORRECTABLE
            | CUresult::CUDA_ERROR_ILLEGAL_ADDRESS
            | CUresult::CUDA_ERROR_LAUNCH_TIMEOUT
            | CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUresult::CUDA_ERROR_ASSERT
            | CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUresult::CUDA_ERROR_MISALIGNED_ADDRESS
            | CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUresult::CUDA_ERROR_INVALID_PC
            | CUresult::CUDA_ERROR_LAUNCH_FAILED
    )
}
