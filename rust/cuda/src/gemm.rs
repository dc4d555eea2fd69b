//! Products by cuBLASLt, of 16-bit weights and many rows, where results need not be the same in every batch.
//!
//! ```text
//!   to^T = weight @ x^T      as cuBLASLt sees memory, column by column: rows of ours are columns of its matrices
//! ```
//!
//! The library is looked for when a backend is made. It cannot run in the simulator, so no test covers it, and it has not
//! run on a GPU yet; without it, and for what it refuses, the kernels of `cuda/linear_tiled.cu` do the work.

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
use rustllm_ops::{DType, Result};

use crate::backend::CudaBackend;
use crate::view::{Address, Matrix};

/// The release that the bindings are of.
const MAJOR: usize = 13;

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

/// What an algorithm is chosen for: so many rows or fewer, and all else exactly.
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
    /// `None` for what the library refused.
    algorithms: Mutex<HashMap<Shape, Option<Algorithm>>>,
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

/// The rows that an algorithm for `rows` is chosen for: steps that differ by a few tokens share it.
fn rounded(rows: usize) -> usize {
    rows.next_multiple_of(if rows <= 1024 { 64 } else { 256 })
}

/// The library, if this machine has it in the release that the bindings are of.
fn open_library() -> Option<Library> {
    type GetVersion = unsafe extern "C" fn() -> usize;
    // As the bindings do after this: they take the first of the names that there is, and panic where a symbol is missing.
    let library = ["libcublasLt.so", "libcublasLt.so.13"].into_iter().find_map(|name| {
        // SAFETY: the initializers of the library do nothing that a process need prepare for.
        unsafe { Library::open(Some(name), RTLD_NOW | RTLD_GLOBAL) }.ok()
    })?;
    // SAFETY: the symbol has this type.
    let version = unsafe { library.get::<GetVersion>(b"cublasLtGetVersion\0").ok()?() };
    // 130000 is 13.0.
    (version / 10_000 == MAJOR).then_some(library)
}

/// Whether this machine has the library.
pub(crate) fn is_installed() -> bool {
    open_library().is_some()
}

impl CublasLt {
    /// The library, if this machine has it and it takes to the device that is current.
    pub fn find() -> Option<Self> {
        // It stays loaded: the bindings open it again by name, and cannot do without.
        std::mem::forget(open_library()?);
        let handle = result::create_handle().ok()?;
        Some(Self { handle, algorithms: Mutex::default() })
    }

    /// Submits a product; false, and nothing done, for one that the library refuses.
    pub fn multiply(&self, backend: &CudaBackend, product: &Product) -> Result<bool> {
        let Product { dtype, depth, .. } = *product;
        let (rows, cols) = (rounded(product.to.num_rows()), product.to.num_cols());
        let shape = Shape { dtype, rows, cols, depth, has_bias: product.bias != 0 };
        backend.device.bind()?;
        let mut algorithms = self.algorithms.lock().unwrap_or_else(PoisonError::into_inner);
        let algorithm = *algorithms.entry(shape).or_insert_with(|| self.choose(product, rows).ok());
        let Some(algorithm) = algorithm else { return Ok(false) };
        let workspace = backend.workspace(WORKSPACE_BYTES)?;
        let submitted = self.submit(backend, product, &algorithm, workspace.address());
        if submitted.is_err() {
            algorithms.insert(shape, None);
        }
        Ok(submitted.is_ok())
    }

    fn submit(
        &self,
        backend: &CudaBackend,
        product: &Product,
        algorithm: &Algorithm,
        workspace: Address,
    ) -> std::result::Result<(), CublasError> {
        let operands = Operands::new(product, product.to.num_rows())?;
        let (alpha, beta) = (1.0f32, 0.0f32);
        let to = product.to.data as *mut c_void;
        // SAFETY: the descriptors live, and the addresses are of memory as large as they say; all of it outlives the work on
        // the stream, since it is freed or used again in the stream's own order. C is not read, as beta is zero.
        unsafe {
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
                workspace as *mut c_void,
                WORKSPACE_BYTES,
                backend.device.stream().cu_stream().cast(),
            )
        }
    }

    /// The algorithm that the library thinks best for the product of `rows` rows: what one needs grows with them.
    fn choose(&self, product: &Product, rows: usize) -> std::result::Result<Algorithm, CublasError> {
        let operands = Operands::new(product, rows)?;
        let preference = result::create_matmul_pref()?;
        let limit = PreferenceAttribute::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES;
        let Operands { matmul, weights, x, to } = &operands;
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
        Ok(Algorithm(chosen?.algo))
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
    /// Of a product as if it had `rows` rows.
    fn new(product: &Product, rows: usize) -> std::result::Result<Self, CublasError> {
        let dtype = match product.dtype {
            DType::F32 => DataType::CUDA_R_32F,
            DType::F16 => DataType::CUDA_R_16F,
            DType::BF16 => DataType::CUDA_R_16BF,
        };
        let (rows, cols, depth) = (rows as u64, product.to.num_cols() as u64, product.depth as u64);
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
