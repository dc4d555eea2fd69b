//! Products by cuBLASLt, of 16-bit weights and many rows, where results need not be the same in every batch.
//!
//! ```text
//!   to^T = weight @ x^T      as cuBLASLt sees memory, column by column: rows of ours are columns of its matrices
//! ```
//!
//! The library is looked for when a backend is made. It cannot run in the simulator, so no test covers it, and it has not
//! run on a GPU yet; without it the kernels of `cuda/linear_tiled.cu` do the work.

use std::collections::HashMap;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::result::{self, CublasError};
use cudarc::cublaslt::sys::{
    cublasComputeType_t as ComputeType, cublasLtEpilogue_t as Epilogue, cublasLtHandle_t, cublasLtMatmulAlgo_t,
    cublasLtMatmulDesc_t, cublasLtMatmulDescAttributes_t as MatmulAttribute,
    cublasLtMatmulPreferenceAttributes_t as PreferenceAttribute, cublasLtMatrixLayout_t, cudaDataType as DataType,
};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use rustllm_ops::{DType, Error, Result};

use crate::NAME;
use crate::backend::CudaBackend;
use crate::view::{Address, Matrix};

/// Memory that an algorithm may use: what NVIDIA recommends for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;

/// `CUBLAS_OP_T`, which the bindings of cuBLASLt do not name.
const TRANSPOSED: i32 = 1;

/// `to = x @ weights.T + bias`, with operands in `dtype`, f16 or bf16.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Product {
    pub dtype: DType,
    pub to: Matrix,
    pub weights: Address,
    /// Elements from row to row.
    pub weight_stride: i64,
    pub x: Address,
    /// Elements from row to row.
    pub x_stride: i64,
    /// Columns of x.
    pub depth: usize,
    pub bias: Address,
}

/// What an algorithm is chosen for: rows up to a power of two, and all else exactly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Shape {
    dtype: DType,
    rows: usize,
    cols: usize,
    depth: usize,
    has_bias: bool,
}

/// The library, and the algorithms chosen so far.
#[derive(Debug)]
pub(crate) struct CublasLt {
    handle: cublasLtHandle_t,
    algorithms: Mutex<HashMap<Shape, Algorithm>>,
}

#[derive(Clone, Copy)]
struct Algorithm(cublasLtMatmulAlgo_t);

impl std::fmt::Debug for Algorithm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Algorithm")
    }
}

// SAFETY: a handle may be used by any thread, and by several at once; algorithms are plain data.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// The library, if this machine has it and it takes to the device that is current.
    pub fn find() -> Option<Self> {
        // SAFETY: the initializers of the library do nothing that a process need prepare for.
        let library = unsafe { Library::open(Some("libcublasLt.so.13"), RTLD_NOW | RTLD_GLOBAL) }.ok()?;
        // It stays loaded: the bindings open it again by name, and cannot do without.
        std::mem::forget(library);
        let handle = result::create_handle().ok()?;
        Some(Self { handle, algorithms: Mutex::default() })
    }

    /// Submits a product.
    pub fn multiply(&self, backend: &CudaBackend, product: &Product) -> Result<()> {
        let workspace = backend.scratch(WORKSPACE_BYTES)?;
        backend.device.bind()?;
        let failed = |error: CublasError| Error::Backend { backend: NAME, message: format!("cuBLASLt: {error}") };
        let operands = Operands::new(product).map_err(failed)?;
        let algorithm = self.algorithm(product, &operands).map_err(failed)?;
        let (alpha, beta) = (1.0f32, 0.0f32);
        let to = product.to.data as *mut c_void;
        // SAFETY: the descriptors live, and the addresses are of memory as large as they say; all of it outlives the work on
        // the stream, since it is freed or used again in the stream's own order. C is not read, as beta is zero.
        let submitted = unsafe {
            result::matmul(
                self.handle,
                operands.matmul,
                (&raw const alpha).cast(),
                (&raw const beta).cast(),
                product.weights as *const c_void,
                operands.weights,
                product.x as *const c_void,
                operands.x,
                to,
                operands.to,
                to,
                operands.to,
                &raw const algorithm.0,
                workspace.address() as *mut c_void,
                WORKSPACE_BYTES,
                backend.device.stream().cu_stream().cast(),
            )
        };
        submitted.map_err(failed)
    }

    fn algorithm(&self, product: &Product, operands: &Operands) -> std::result::Result<Algorithm, CublasError> {
        let shape = Shape {
            dtype: product.dtype,
            rows: product.to.num_rows().next_power_of_two(),
            cols: product.to.num_cols(),
            depth: product.depth,
            has_bias: product.bias != 0,
        };
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(algorithm) = algorithms.get(&shape) {
            return Ok(*algorithm);
        }
        let preference = result::create_matmul_pref()?;
        let limit = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let Operands { matmul, weights, x, to } = operands;
        let limit_bytes = WORKSPACE_BYTES;
        // SAFETY: the descriptors live, and the attribute has the size it is said to have.
        let chosen = unsafe {
            let bytes = (&raw const limit_bytes).cast();
            result::set_matmul_pref_attribute(preference, limit, bytes, size_of::<usize>()).and_then(|()| {
                result::get_matmul_algo_heuristic(self.handle, *matmul, *weights, *x, *to, *to, preference)
            })
        };
        // SAFETY: nothing refers to it any more.
        unsafe { result::destroy_matmul_pref(preference)? };
        let algorithm = Algorithm(chosen?.algo);
        algorithms.insert(shape, algorithm);
        Ok(algorithm)
    }
}

impl Drop for CublasLt {
    fn drop(&mut self) {
        // SAFETY: the handle is this value's own. Its failure leaves nothing to be done.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}

/// What cuBLASLt is told of a product.
struct Operands {
    matmul: cublasLtMatmulDesc_t,
    weights: cublasLtMatrixLayout_t,
    x: cublasLtMatrixLayout_t,
    to: cublasLtMatrixLayout_t,
}

impl Operands {
    fn new(product: &Product) -> std::result::Result<Self, CublasError> {
        let dtype = match product.dtype {
            DType::F32 => DataType::CUDA_R_32F,
            DType::F16 => DataType::CUDA_R_16F,
            DType::BF16 => DataType::CUDA_R_16BF,
        };
        let (rows, cols, depth) = (product.to.num_rows() as u64, product.to.num_cols() as u64, product.depth as u64);
        let mut operands = Self {
            matmul: result::create_matmul_desc(ComputeType::CUBLAS_COMPUTE_32F, DataType::CUDA_R_32F)?,
            weights: std::ptr::null_mut(),
            x: std::ptr::null_mut(),
            to: std::ptr::null_mut(),
        };
        operands.weights = result::create_matrix_layout(dtype, depth, cols, product.weight_stride)?;
        operands.x = result::create_matrix_layout(dtype, depth, rows, product.x_stride)?;
        operands.to = result::create_matrix_layout(DataType::CUDA_R_32F, cols, rows, product.to.stride)?;
        operands.set(MatmulAttribute::CUBLASLT_MATMUL_DESC_TRANSA, &TRANSPOSED)?;
        if product.bias != 0 {
            operands.set(MatmulAttribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &Epilogue::CUBLASLT_EPILOGUE_BIAS)?;
            operands.set(MatmulAttribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &product.bias)?;
        }
        Ok(operands)
    }

    /// `value` must have the type that the attribute has.
    fn set<T>(&self, attribute: MatmulAttribute, value: &T) -> std::result::Result<(), CublasError> {
        // SAFETY: the descriptor lives, and the value is read at once.
        unsafe { result::set_matmul_desc_attribute(self.matmul, attribute, (&raw const *value).cast(), size_of::<T>()) }
    }
}

impl Drop for Operands {
    fn drop(&mut self) {
        let layouts = [self.weights, self.x, self.to];
        // SAFETY: the descriptors are this value's own, and null where they were not made.
        unsafe {
            for layout in layouts.into_iter().filter(|layout| !layout.is_null()) {
                let _ = result::destroy_matrix_layout(layout);
            }
            let _ = result::destroy_matmul_desc(self.matmul);
        }
    }
}
