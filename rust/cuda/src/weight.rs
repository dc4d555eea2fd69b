//! Weights in the device's memory, and how they get there.
//!
//! ```text
//!   checkpoint, in host memory ──copy──► its rows ──decode──► float32 rows ──encode──► the weight
//!                              │         └─ some rows at a time, so that what is between stays small ─┘
//!                              └──copy──► the weight, where its rows are what is kept
//! ```
//!
//! `cuda/weight.cu` has the layouts. Codes and scales are computed on the device.

use std::any::Any;

use rustllm_ops::{DType, Error, HostMatrix, Result, Storage, Weight, WeightFormat, check, checked_size};

use crate::NAME;
use crate::backend::CudaBackend;
use crate::device::{Device, Grid};
use crate::kernels::{Decode, EncodeDense, EncodeInt4, EncodeInt8};
use crate::upload::Uploader;
use crate::view::{Address, Matrix};
use crate::weight_arena::{WeightArena, WeightMemory};

/// Bytes of float32 that are encoded at a time.
const CHUNK_BYTES: usize = 64 << 20;

/// Rows are padded to whole vectors of this many bytes.
const ALIGNMENT: usize = 16;

/// What weights are loaded with.
#[derive(Debug, Default)]
pub(crate) struct WeightLoader {
    pub arena: WeightArena,
    /// While weights are loaded.
    uploader: Option<Uploader>,
}

impl WeightLoader {
    /// Gives page-locked memory back until another weight is loaded.
    pub fn give_back_buffers(&mut self) {
        self.uploader = None;
    }
}

/// A weight's memory.
#[derive(Debug)]
pub(crate) struct DeviceWeight {
    format: WeightFormat,
    backend: u64,
    codes: WeightMemory,
    /// Elements of a dense row, bytes of a quantized one.
    pub stride: usize,
    scales: Option<WeightMemory>,
    zeros: Option<WeightMemory>,
    /// Scales of a row, of int4.
    pub groups: usize,
}

impl Storage for DeviceWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl DeviceWeight {
    /// What backend `backend` made of a weight.
    pub fn of(weight: &Weight, backend: u64) -> Result<&Self> {
        let packed = weight.storage.as_any().downcast_ref::<Self>();
        packed
            .filter(|packed| packed.backend == backend && packed.format == weight.format)
            .ok_or(Error::ForeignStorage { backend: NAME })
    }

    pub fn codes(&self) -> Address {
        self.codes.address()
    }

    pub fn scales(&self) -> Address {
        self.scales.as_ref().map_or(0, WeightMemory::address)
    }

    pub fn zeros(&self) -> Address {
        self.zeros.as_ref().map_or(0, WeightMemory::address)
    }

    fn reserve(
        device: &Device,
        arena: &mut WeightArena,
        backend: u64,
        format: WeightFormat,
        (rows, cols): (usize, usize),
    ) -> Result<Self> {
        let (stride, row_bytes, groups) = match format {
            WeightFormat::Dense(dtype) => {
                let stride = cols.next_multiple_of(ALIGNMENT / dtype.size());
                (stride, stride * dtype.size(), 0)
            }
            WeightFormat::Int8 => (cols.next_multiple_of(ALIGNMENT), cols.next_multiple_of(ALIGNMENT), 0),
            WeightFormat::Int4 { group_size, .. } => {
                let bytes = cols.div_ceil(2).next_multiple_of(ALIGNMENT);
                (bytes, bytes, cols.div_ceil(group_size))
            }
        };
        let mut alloc = |sizes: &[usize]| arena.take(device, sizes);
        let (scales, zeros) = match format {
            WeightFormat::Dense(_) => (None, None),
            WeightFormat::Int8 => (Some(alloc(&[rows, size_of::<f32>()])?), None),
            WeightFormat::Int4 { .. } => (Some(alloc(&[rows, groups, 2])?), Some(alloc(&[rows, groups])?)),
        };
        Ok(Self { format, backend, codes: alloc(&[rows, row_bytes])?, stride, scales, zeros, groups })
    }

    /// Makes a weight of `parts`, whose widths were checked.
    pub fn load(
        backend: &CudaBackend,
        loader: &mut WeightLoader,
        parts: &[HostMatrix<'_>],
        format: WeightFormat,
    ) -> Result<Self> {
        let (device, shape) = (&backend.device, check::load_weight(parts)?);
        let weight = Self::reserve(device, &mut loader.arena, backend.id, format, shape)?;
        let uploader = match &mut loader.uploader {
            Some(uploader) => uploader,
            none => none.insert(Uploader::new(device)?),
        };
        let mut first = 0;
        for part in parts {
            if weight.keeps_rows_of(part) {
                let to = weight.codes() + (first * weight.stride * part.dtype.size()) as u64;
                uploader.upload(device, part.bytes, to)?;
            } else {
                weight.convert_part(backend, uploader, part, first)?;
            }
            first += part.rows;
            if let Some(source) = part.source {
                source.release(part.bytes);
            }
        }
        Ok(weight)
    }

    /// Whether the part's bytes are the weight's.
    fn keeps_rows_of(&self, part: &HostMatrix<'_>) -> bool {
        self.format == part.dtype.into() && !part.transposed && self.stride == part.cols
    }

    /// Encodes a part as the rows from `first` on.
    fn convert_part(
        &self,
        backend: &CudaBackend,
        uploader: &mut Uploader,
        part: &HostMatrix<'_>,
        first: usize,
    ) -> Result<()> {
        let device = &backend.device;
        let chunk_rows = (CHUNK_BYTES / size_of::<f32>() / part.cols.max(1)).clamp(1, part.rows.max(1));
        // Of the arena, so that the next weight, and later activations, find it there.
        let decoded =
            backend.scratch(checked_size(&[chunk_rows, part.cols, size_of::<f32>()], "weights being loaded")?)?;
        let row_bytes = part.cols * part.dtype.size();
        // A row of a transposed part lies all over it, so all of it is copied.
        let raw_bytes = if part.transposed { part.bytes.len() } else { chunk_rows * row_bytes };
        let raw = backend.scratch(raw_bytes)?;
        if part.transposed {
            uploader.upload(device, part.bytes, raw.address())?;
        }
        for start in (0..part.rows).step_by(chunk_rows) {
            let rows = chunk_rows.min(part.rows - start);
            let to = dense_matrix(decoded.address(), rows, part.cols)?;
            if !part.transposed {
                let bytes = &part.bytes[start * row_bytes..(start + rows) * row_bytes];
                uploader.upload(device, bytes, raw.address())?;
            }
            let decode = Decode {
                to,
                from: raw.address(),
                transposed: part.transposed.into(),
                first_row: if part.transposed { start as i64 } else { 0 },
                from_rows: part.rows as i64,
            };
            let entry = match part.dtype {
                DType::F32 => "decode_f32",
                DType::F16 => "decode_f16",
                DType::BF16 => "decode_bf16",
            };
            device.launch(entry, Grid::new((rows, part.cols.div_ceil(1024), 1), 256), &decode)?;
            self.encode(device, first + start, to)?;
        }
        Ok(())
    }

    /// Encodes float32 rows as the rows from `first` on.
    fn encode(&self, device: &Device, first: usize, from: Matrix) -> Result<()> {
        let (rows, stride) = (from.num_rows(), self.stride as i64);
        let codes = |row_bytes: usize| self.codes.address() + (first * row_bytes) as u64;
        match self.format {
            WeightFormat::Dense(dtype) => {
                let to = codes(self.stride * dtype.size());
                let entry = match dtype {
                    DType::F32 => "encode_f32",
                    DType::F16 => "encode_f16",
                    DType::BF16 => "encode_bf16",
                };
                let grid = Grid::new((rows, self.stride.div_ceil(1024), 1), 256);
                device.launch(entry, grid, &EncodeDense { to, stride, from })
            }
            WeightFormat::Int8 => {
                let scales = self.scales() + (first * size_of::<f32>()) as u64;
                let encode = EncodeInt8 { to: codes(self.stride), stride, scales, from };
                device.launch("encode_int8", Grid::new((rows, 1, 1), 256), &encode)
            }
            WeightFormat::Int4 { group_size, symmetric } => {
                let encode = EncodeInt4 {
                    to: codes(self.stride),
                    stride,
                    scales: self.scales() + (first * self.groups * 2) as u64,
                    zeros: self.zeros() + (first * self.groups) as u64,
                    group_size: group_size as i32,
                    symmetric: symmetric.into(),
                    from,
                };
                device.launch("encode_int4", Grid::new((rows, self.groups, 1), 32), &encode)
            }
        }
    }
}

fn dense_matrix(data: Address, rows: usize, cols: usize) -> Result<Matrix> {
    match (i32::try_from(rows), i32::try_from(cols)) {
        (Ok(num_rows), Ok(num_cols)) => Ok(Matrix { data, rows: num_rows, cols: num_cols, stride: cols as i64 }),
        _ => Err(Error::Shape { op: "load_weight", detail: format!("[{rows}, {cols}] has too many rows or columns") }),
    }
}
