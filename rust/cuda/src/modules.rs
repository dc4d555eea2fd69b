//! From a kernel file's name to its kernels in the GPU's memory.

use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaModule};
use cudarc::nvrtc::Ptx;

use crate::CudaError;
use crate::error::describe;
use crate::images::{IMAGES, Image};

/// Loads the kernels of `cuda/{file}.cu`.
pub(crate) fn load(
    context: &Arc<CudaContext>,
    _compute_capability: (i32, i32),
    file: &'static str,
) -> Result<Arc<CudaModule>, CudaError> {
    let failed = |message: String| CudaError::NoImage { file, message };
    let image: &Image =
        IMAGES.iter().find(|image| image.file == file).ok_or_else(|| failed("it is not in this build".into()))?;
    let bytes = image.fatbin.unwrap_or(image.source.as_bytes()).to_vec();
    context.load_module(Ptx::from_binary(bytes)).map_err(|error| failed(describe(error)))
}
