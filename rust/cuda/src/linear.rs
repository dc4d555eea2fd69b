//! Linear layers: inputs as the weight takes them, then products, with the bias and what follows in their last step.
//!
//! ```text
//!   x ──one row, rounded or quantized by the product's kernel─────────────────────► result
//!   x ──round, or quantize──► inputs ──skinny, up to 16 rows──────────────────────►
//!                                    ──tiled, more rows───────────────────────────►
//!                                    ──tiled, few tiles──► sums of parts ──added──►
//!                                    ──cuBLASLt, more rows and 16 bits─────────────►      unless `deterministic`
//! ```
//!
//! `cuda/gemm.cuh` says why a row's bits are the same from each of them.

use std::sync::Arc;

use rustllm_ops::{Activation, Backend, DType, Result, Tensor, Weight, WeightFormat, checked_size};

use crate::backend::{CudaBackend, number_of};
use crate::buffer::Buffer;
use crate::device::Grid;
use crate::gemm::{CublasLt, Product};
use crate::kernels::{InputDense, InputInt8, RowProducts, SkinnyProducts, TiledProducts};
use crate::view::{Address, Matrix, optional_vector};
use crate::weight::DeviceWeight;

/// Bytes of a slab of x: `kSlabBytes` of `cuda/gemm_format.cuh`.
pub(crate) const SLAB_BYTES: usize = 128;

/// Parts that K is summed in.
pub(crate) const PARTS: usize = 8;

/// Threads of a block.
pub(crate) const THREADS: u32 = 256;

/// `WeightScales` of `cuda/gemm_format.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct WeightScales {
    pub scales: Address,
    pub zeros: Address,
    pub groups: i32,
    pub reserved: i32,
}

/// `GemmOperands` of `cuda/gemm.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct GemmOperands {
    pub weights: Address,
    pub weight_stride: i64,
    pub x: Address,
    pub x_stride: i64,
    pub scales: WeightScales,
    pub slabs: i32,
    pub part_slabs: i32,
}

impl GemmOperands {
    /// Of a weight, and of rows at `x` that take `x_stride` bytes each.
    fn new(weight: &DeviceWeight, format: WeightFormat, x: Address, x_stride: usize) -> Self {
        let slabs = x_stride / SLAB_BYTES;
        let (scales, zeros, groups) = (weight.scales(), weight.zeros(), weight.groups as i32);
        Self {
            weights: weight.codes(),
            weight_stride: (weight.stride * element_size(format)) as i64,
            x,
            x_stride: x_stride as i64,
            scales: WeightScales { scales, zeros, groups, reserved: 0 },
            slabs: slabs as i32,
            part_slabs: slabs.div_ceil(PARTS).max(1) as i32,
        }
    }
}

/// `LinearOperands` of `cuda/linear.cuh`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(crate) struct LinearOperands {
    pub to: Matrix,
    pub gemm: GemmOperands,
    pub x_scales: Address,
    pub bias: Address,
    pub part_sums: Address,
    pub weight_rows: i32,
    pub activation: i32,
    pub gated: i32,
    pub reserved: i32,
}

/// What follows the products and the bias.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Then {
    /// Nothing.
    Nothing,
    /// An activation.
    Activate(Activation),
    /// An activation of the first half of the columns, times the second half.
    Gate(Activation),
}

/// Rows of activations in the form that the products with a weight take.
#[derive(Debug)]
pub(crate) struct Inputs {
    memory: Arc<Buffer>,
    scales: Option<Arc<Buffer>>,
    /// Bytes of a row.
    stride: usize,
}

impl Inputs {
    /// Rounds or quantizes rows of x for weights in `format`.
    pub fn new(backend: &CudaBackend, x: Matrix, format: WeightFormat) -> Result<Self> {
        let (rows, size, stride) = (x.num_rows(), element_size(format), input_stride(x.num_cols(), format));
        let memory = backend.scratch(checked_size(&[rows, stride], "activations")?)?;
        let (to, elements) = (memory.address(), (stride / size) as i64);
        let WeightFormat::Dense(dtype) = format else {
            let scales = backend.scratch(checked_size(&[rows, size_of::<f32>()], "activations")?)?;
            let for_int4 = matches!(format, WeightFormat::Int4 { .. }).into();
            let quantize = InputInt8 { to, stride: elements, scales: scales.address(), x, for_int4 };
            backend.device.launch("input_int8", Grid::new((rows, 1, 1), THREADS), &quantize)?;
            return Ok(Self { memory, scales: Some(scales), stride });
        };
        let entry = match dtype {
            DType::F32 => "input_f32",
            DType::F16 => "input_f16",
            DType::BF16 => "input_bf16",
        };
        let grid = Grid::new((rows, (stride / size).div_ceil(1024), 1), THREADS);
        backend.device.launch(entry, grid, &InputDense { to, stride: elements, x })?;
        Ok(Self { memory, scales: None, stride })
    }

    /// The products' operands with a weight.
    pub fn times(&self, weight: &DeviceWeight, format: WeightFormat) -> GemmOperands {
        GemmOperands::new(weight, format, self.memory.address(), self.stride)
    }

    /// The address of the rows' scales, of quantized ones.
    pub fn scales(&self) -> Address {
        self.scales.as_ref().map_or(0, |scales| scales.address())
    }
}

/// Bytes of an element of x as it is multiplied, and of what a weight's stride counts.
fn element_size(format: WeightFormat) -> usize {
    match format {
        WeightFormat::Dense(dtype) => dtype.size(),
        WeightFormat::Int8 | WeightFormat::Int4 { .. } => 1,
    }
}

/// Bytes of a row of x as it is multiplied.
fn input_stride(cols: usize, format: WeightFormat) -> usize {
    (cols * element_size(format)).next_multiple_of(SLAB_BYTES)
}

/// Bytes that a slab of a weight's row takes.
pub(crate) fn weight_slab_bytes(format: WeightFormat) -> usize {
    match format {
        WeightFormat::Dense(_) | WeightFormat::Int8 => SLAB_BYTES,
        WeightFormat::Int4 { .. } => SLAB_BYTES / 2,
    }
}

/// The kernel of `entries` for a format: of f32, f16, bf16, int8, and int4 in groups of 32, 64 and 128.
pub(crate) fn pick(format: WeightFormat, entries: [&'static str; 7]) -> &'static str {
    entries[match format {
        WeightFormat::Dense(DType::F32) => 0,
        WeightFormat::Dense(DType::F16) => 1,
        WeightFormat::Dense(DType::BF16) => 2,
        WeightFormat::Int8 => 3,
        WeightFormat::Int4 { group_size: 32, .. } => 4,
        WeightFormat::Int4 { group_size: 64, .. } => 5,
        WeightFormat::Int4 { .. } => 6,
    }]
}

/// The names of the kernels called `$prefix` for every format, in the order of [`pick`].
macro_rules! entries {
    ($prefix:literal) => {
        [
            concat!($prefix, "_f32"),
            concat!($prefix, "_f16"),
            concat!($prefix, "_bf16"),
            concat!($prefix, "_int8"),
            concat!($prefix, "_int4_g32"),
            concat!($prefix, "_int4_g64"),
            concat!($prefix, "_int4_g128"),
        ]
    };
}

pub(crate) use entries;

/// A shape of blocks for one row of x: rows of the weight, and slabs in a warp's ring. `cuda/linear_row.cu` has the same.
struct OneRow {
    entries: [&'static str; 7],
    weight_rows: usize,
    stages: usize,
}

const ROW_16: OneRow = OneRow { entries: entries!("row_16"), weight_rows: 16, stages: 4 };
const ROW_32: OneRow = OneRow { entries: entries!("row_32"), weight_rows: 32, stages: 2 };

/// Bytes of a row of x up to which blocks make it by themselves: of more, blocks would be too few on a multiprocessor.
const MOST_ROW_BYTES: usize = 32 << 10;

impl OneRow {
    fn launch(&self, backend: &CudaBackend, format: WeightFormat, linear: LinearOperands, x: Matrix) -> Result<()> {
        let rings = PARTS * self.stages * self.weight_rows * weight_slab_bytes(format);
        let row = (linear.gemm.slabs as usize + 7) * SLAB_BYTES;
        let blocks = (tile_rows(&linear).div_ceil(self.weight_rows), 1, 1);
        let grid = Grid { blocks, threads: THREADS, shared_bytes: (rings + row) as u32 };
        backend.device.launch(pick(format, self.entries), grid, &RowProducts { linear, x })
    }
}

/// A shape of skinny blocks: rows of x and of the weight, and slabs in a warp's ring. `cuda/linear_skinny.cu` has the same.
struct Skinny {
    entries: [&'static str; 7],
    rows: usize,
    weight_rows: usize,
    stages: usize,
}

const SKINNY_8X16: Skinny = Skinny { entries: entries!("skinny_8x16"), rows: 8, weight_rows: 16, stages: 4 };
const SKINNY_8X32: Skinny = Skinny { entries: entries!("skinny_8x32"), rows: 8, weight_rows: 32, stages: 2 };
const SKINNY_16X32: Skinny = Skinny { entries: entries!("skinny_16x32"), rows: 16, weight_rows: 32, stages: 2 };

impl Skinny {
    fn launch(&self, backend: &CudaBackend, format: WeightFormat, linear: LinearOperands) -> Result<()> {
        let stage = self.weight_rows * weight_slab_bytes(format) + self.rows * SLAB_BYTES;
        let blocks = (tile_rows(&linear).div_ceil(self.weight_rows), linear.to.num_rows().div_ceil(self.rows), 1);
        let grid = Grid { blocks, threads: THREADS, shared_bytes: (PARTS * self.stages * stage) as u32 };
        backend.device.launch(pick(format, self.entries), grid, &SkinnyProducts { linear })
    }
}

/// A shape of tiles: rows of x and of the weight, and slabs in a block's ring. `cuda/linear_tiled.cu` has the same.
struct Tiled {
    entries: [&'static str; 7],
    rows: usize,
    weight_rows: usize,
    stages: usize,
}

const TILED_64X128: Tiled = Tiled { entries: entries!("tiled_64x128"), rows: 64, weight_rows: 128, stages: 4 };
const TILED_128X128: Tiled = Tiled { entries: entries!("tiled_128x128"), rows: 128, weight_rows: 128, stages: 3 };

impl Tiled {
    /// The tiles for rows of x. Those of 128 rows are for formats whose products leave room in a lane's registers.
    fn of(rows: usize, format: WeightFormat) -> Self {
        match format {
            WeightFormat::Dense(DType::F16 | DType::BF16) | WeightFormat::Int8 if rows > 64 => TILED_128X128,
            _ => TILED_64X128,
        }
    }

    fn launch(&self, backend: &CudaBackend, format: WeightFormat, mut linear: LinearOperands) -> Result<()> {
        let stage = self.weight_rows * weight_slab_bytes(format) + self.rows * SLAB_BYTES;
        let parts = (linear.gemm.slabs as usize).div_ceil(linear.gemm.part_slabs as usize);
        let rows = linear.to.num_rows();
        let tiles = (rows.div_ceil(self.rows), tile_rows(&linear).div_ceil(self.weight_rows));
        // So few tiles leave most of the device without work.
        let split = parts > 1 && 2 * tiles.0 * tiles.1 <= backend.device.num_multiprocessors();
        let shared_bytes = (self.stages * stage) as u32;
        let grid = |parts| Grid { blocks: (tiles.0, tiles.1, parts), threads: THREADS, shared_bytes };
        let entry = pick(format, self.entries);
        if !split {
            return backend.device.launch(entry, grid(1), &TiledProducts { linear });
        }
        let sums = backend.scratch(checked_size(&[parts, rows, linear.weight_rows as usize, 4], "sums of parts")?)?;
        linear.part_sums = sums.address();
        backend.device.launch(entry, grid(parts), &TiledProducts { linear })?;
        let entry = match format {
            WeightFormat::Dense(_) => "sum_parts_dense",
            WeightFormat::Int8 => "sum_parts_int8",
            WeightFormat::Int4 { .. } => "sum_parts_int4",
        };
        let grid = Grid::new((rows, linear.to.num_cols().div_ceil(1024), 1), THREADS);
        backend.device.launch(entry, grid, &TiledProducts { linear })
    }
}

/// Rows of tiles: those of the weight, or gates and ups in turn, 16 of each.
pub(crate) fn tile_rows(linear: &LinearOperands) -> usize {
    match linear.gated {
        0 => linear.to.num_cols(),
        _ => linear.to.num_cols().next_multiple_of(16) * 2,
    }
}

/// `then(x @ weight.T + bias)`. Shapes were checked.
pub(crate) fn linear(
    backend: &CudaBackend,
    x: &Tensor,
    weight: &Weight,
    bias: Option<&Tensor>,
    then: Then,
) -> Result<Tensor> {
    if let (Some(cublas), WeightFormat::Dense(dtype @ (DType::F16 | DType::BF16))) = (&backend.cublas, weight.format)
        && x.rows() > SKINNY_16X32.rows
    {
        let result = by_cublas(backend, cublas, x, (weight, dtype), bias, then)?;
        if let Some(result) = result {
            return Ok(result);
        }
    }
    let packed = DeviceWeight::of(weight, backend.id)?;
    let (activation, gated) = match then {
        Then::Nothing => (-1, false),
        Then::Activate(activation) => (number_of(activation), false),
        Then::Gate(activation) => (number_of(activation), true),
    };
    let cols = if gated { weight.out_features / 2 } else { weight.out_features };
    let (result, to) = backend.result(x.rows(), cols)?;
    let x = backend.view(x)?;
    let row_bytes = input_stride(x.num_cols(), weight.format);
    let mut linear = LinearOperands {
        to,
        gemm: GemmOperands::new(packed, weight.format, 0, row_bytes),
        x_scales: 0,
        bias: optional_vector(bias, backend.id)?,
        part_sums: 0,
        weight_rows: weight.out_features as i32,
        activation,
        gated: gated.into(),
        reserved: 0,
    };
    if x.num_rows() == 1 && row_bytes <= MOST_ROW_BYTES {
        let kernels = if gated { ROW_32 } else { ROW_16 };
        kernels.launch(backend, weight.format, linear, x)?;
        return Ok(result);
    }
    let inputs = Inputs::new(backend, x, weight.format)?;
    (linear.gemm, linear.x_scales) = (inputs.times(packed, weight.format), inputs.scales());
    match x.num_rows() {
        0..=8 if gated => SKINNY_8X32.launch(backend, weight.format, linear)?,
        0..=8 => SKINNY_8X16.launch(backend, weight.format, linear)?,
        9..=16 => SKINNY_16X32.launch(backend, weight.format, linear)?,
        rows => Tiled::of(rows, weight.format).launch(backend, weight.format, linear)?,
    }
    Ok(result)
}

/// [`linear`] of 16-bit weights, its products by cuBLASLt, unless that refuses them.
fn by_cublas(
    backend: &CudaBackend,
    cublas: &CublasLt,
    x: &Tensor,
    (weight, dtype): (&Weight, DType),
    bias: Option<&Tensor>,
    then: Then,
) -> Result<Option<Tensor>> {
    let packed = DeviceWeight::of(weight, backend.id)?;
    let inputs = Inputs::new(backend, backend.view(x)?, weight.format)?;
    let (result, to) = backend.result(x.rows(), weight.out_features)?;
    let product = Product {
        dtype,
        to,
        weights: packed.codes(),
        weight_stride: packed.stride as i64,
        x: inputs.memory.address(),
        x_stride: (inputs.stride / dtype.size()) as i64,
        depth: weight.in_features,
        bias: optional_vector(bias, backend.id)?,
    };
    if !cublas.multiply(backend, &product)? {
        return Ok(None);
    }
    Ok(Some(match then {
        Then::Nothing => result,
        Then::Activate(activation) => backend.activation(&result, activation)?,
        Then::Gate(activation) => backend.gated_activation(&result, activation)?,
    }))
}
