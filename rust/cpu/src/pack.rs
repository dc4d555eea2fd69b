//! Weights in the order the kernels read them: one layout for every instruction set, for decode and for prefill.
//!
//! ```text
//!   W, [out_features, in_features]           panels of 16 output rows, k-major
//!
//!          k=0   1   2  ...                  panel 0            panel 1
//!   row 0 [ a0  a1  a2 ]                     k=0: a0 b0 ... p0   k=0: rows 16 to 31
//!   row 1 [ b0  b1  b2 ]          ──►        k=1: a1 b1 ... p1   ...
//!   ...                                      k=2: a2 b2 ... p2
//!   row 15[ p0  p1  p2 ]                     ...
//!
//!   float32, float16    [panels][k][16]       one vector is one k of sixteen outputs
//!   bfloat16            [panels][k/2][16][2]  a0 a1 b0 b1 ... : the operand of a dot-product instruction; without one, a
//!                                             shift and a mask make two float32 vectors of it
//! ```
//!
//! Output rows past the end of the last panel, and an odd `k`'s partner, are zeros.

use std::any::Any;

use rustllm_ops::{DType, HostMatrix, Result, Storage};

use crate::memory::{AlignedBytes, checked_size};
use crate::simd::LANES;

/// A dense weight's panels.
#[derive(Debug)]
pub(crate) struct PackedWeight {
    bytes: AlignedBytes,
    dtype: DType,
    out_features: usize,
    in_features: usize,
}

impl Storage for PackedWeight {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl PackedWeight {
    /// Room for a packed `[out_features, in_features]`, all zero.
    pub(crate) fn zeroed(dtype: DType, out_features: usize, in_features: usize) -> Result<Self> {
        let k = if dtype == DType::BF16 { in_features.next_multiple_of(2) } else { in_features };
        let size = checked_size(&[out_features.div_ceil(LANES), k, LANES, dtype.size()], "a weight")?;
        Ok(Self { bytes: AlignedBytes::zeroed(size, "a weight")?, dtype, out_features, in_features })
    }

    /// Element type, rows and columns.
    pub(crate) fn shape(&self) -> (DType, usize, usize) {
        (self.dtype, self.out_features, self.in_features)
    }

    /// Number of panels.
    pub(crate) fn panels(&self) -> usize {
        self.out_features.div_ceil(LANES)
    }

    /// Bytes of a panel.
    pub(crate) fn panel_bytes(&self) -> usize {
        let k = if self.dtype == DType::BF16 { self.in_features.next_multiple_of(2) } else { self.in_features };
        k * LANES * self.dtype.size()
    }

    /// The first panel.
    pub(crate) fn as_ptr(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Writes panel `panel`: rows `16 * panel ..` of the parts, one part's rows after another's.
    ///
    /// # Safety
    /// Nobody else reads or writes that panel meanwhile, and it exists.
    pub(crate) unsafe fn pack_panel(&self, parts: &[HostMatrix<'_>], panel: usize) {
        let bytes = self.panel_bytes();
        // SAFETY: the panel is inside the buffer, and the caller's alone.
        let to = unsafe { std::slice::from_raw_parts_mut(self.bytes.as_ptr().add(panel * bytes), bytes) };
        for (lane, row) in (panel * LANES..(panel + 1) * LANES).enumerate() {
            if let Some((part, row)) = find_row(parts, row) {
                pack_row(part, row, self.dtype, lane, to);
            }
        }
    }

    /// Row `row` of the matrix, widened into `to`.
    pub(crate) fn unpack_row(&self, row: usize, to: &mut [f32]) {
        let bytes = self.panel_bytes();
        debug_assert!((row / LANES + 1) * bytes <= self.bytes.len() && to.len() <= self.in_features);
        // SAFETY: the panel is inside the buffer, which nobody writes after loading.
        let panel = unsafe { std::slice::from_raw_parts(self.bytes.as_ptr().add(row / LANES * bytes), bytes) };
        let lane = row % LANES;
        match self.dtype {
            DType::F32 => unpack(panel, to, |k| plain(k, lane), f32::from_le_bytes),
            DType::F16 => unpack(panel, to, |k| plain(k, lane), |bits| half::f16::from_le_bytes(bits).to_f32()),
            DType::BF16 => unpack(panel, to, |k| paired(k, lane), |bits| half::bf16::from_le_bytes(bits).to_f32()),
        }
    }
}

/// The part that holds row `row` of the parts stacked, and its row there.
fn find_row<'a, 'b>(parts: &'a [HostMatrix<'b>], mut row: usize) -> Option<(&'a HostMatrix<'b>, usize)> {
    for part in parts {
        if row < part.rows {
            return Some((part, row));
        }
        row -= part.rows;
    }
    None
}

fn plain(k: usize, lane: usize) -> usize {
    k * LANES + lane
}

fn paired(k: usize, lane: usize) -> usize {
    (k / 2 * LANES + lane) * 2 + k % 2
}

fn unpack<const N: usize>(
    panel: &[u8],
    to: &mut [f32],
    index: impl Fn(usize) -> usize,
    widen: impl Fn([u8; N]) -> f32,
) {
    let elements = panel.as_chunks::<N>().0;
    for (k, value) in to.iter_mut().enumerate() {
        *value = widen(elements[index(k)]);
    }
}

fn pack_row(part: &HostMatrix<'_>, row: usize, dtype: DType, lane: usize, to: &mut [u8]) {
    use half::{bf16, f16};
    let f32_of_f16 = |bits| f16::from_le_bytes(bits).to_f32();
    let f32_of_bf16 = |bits| bf16::from_le_bytes(bits).to_f32();
    let plain = |k| plain(k, lane);
    let paired = |k| paired(k, lane);
    match (part.dtype, dtype) {
        (DType::F32, DType::F32) => convert::<4, 4>(part, row, to, plain, |bits| bits),
        (DType::F16, DType::F16) => convert::<2, 2>(part, row, to, plain, |bits| bits),
        (DType::BF16, DType::BF16) => convert::<2, 2>(part, row, to, paired, |bits| bits),
        (DType::F16, DType::F32) => convert(part, row, to, plain, |bits| f32_of_f16(bits).to_le_bytes()),
        (DType::BF16, DType::F32) => convert(part, row, to, plain, |bits| f32_of_bf16(bits).to_le_bytes()),
        (DType::F32, DType::F16) => {
            convert(part, row, to, plain, |bits| f16::from_f32(f32::from_le_bytes(bits)).to_le_bytes());
        }
        (DType::BF16, DType::F16) => {
            convert(part, row, to, plain, |bits| f16::from_f32(f32_of_bf16(bits)).to_le_bytes());
        }
        (DType::F32, DType::BF16) => {
            convert(part, row, to, paired, |bits| bf16::from_f32(f32::from_le_bytes(bits)).to_le_bytes());
        }
        (DType::F16, DType::BF16) => {
            convert(part, row, to, paired, |bits| bf16::from_f32(f32_of_f16(bits)).to_le_bytes());
        }
    }
}

/// Copies row `row` of `part`, elements of `N` bytes, to the places `index` names, elements of `M` bytes.
fn convert<const N: usize, const M: usize>(
    part: &HostMatrix<'_>,
    row: usize,
    to: &mut [u8],
    index: impl Fn(usize) -> usize,
    convert: impl Fn([u8; N]) -> [u8; M],
) {
    let elements = part.bytes.as_chunks::<N>().0;
    let to = to.as_chunks_mut::<M>().0;
    let (start, stride) = if part.transposed { (row, part.rows) } else { (row * part.cols, 1) };
    for k in 0..part.cols {
        to[index(k)] = convert(elements[start + k * stride]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes_of(values: &[f32], dtype: DType) -> Vec<u8> {
        match dtype {
            DType::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            DType::F16 => values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect(),
            DType::BF16 => values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect(),
        }
    }

    #[test]
    fn every_row_comes_back_from_every_dtype_fused_and_transposed() {
        let dtypes = [DType::F32, DType::F16, DType::BF16];
        let (first, second, cols) = (13, 6, 7);
        let values: Vec<f32> = (0..(first + second) * cols).map(|i| (i as f32 - 60.0) * 0.37).collect();
        let (a, b) = values.split_at(first * cols);
        let b_transposed: Vec<f32> =
            (0..cols).flat_map(|col| (0..second).map(move |row| b[row * cols + col])).collect();
        for source in dtypes {
            for target in dtypes {
                let (a, b) = (bytes_of(a, source), bytes_of(&b_transposed, source));
                let parts = [
                    HostMatrix::new(source, first, cols, &a).unwrap(),
                    HostMatrix::new(source, cols, second, &b).unwrap().transpose(),
                ];
                let packed = PackedWeight::zeroed(target, first + second, cols).unwrap();
                // SAFETY: 19 rows are two panels, and this thread has them to itself.
                (0..2).for_each(|panel| unsafe { packed.pack_panel(&parts, panel) });
                for row in 0..first + second {
                    let mut got = vec![f32::NAN; cols];
                    packed.unpack_row(row, &mut got);
                    let want = values[row * cols..][..cols].iter().map(|v| target.round(source.round(*v)));
                    assert!(want.eq(got.iter().copied()), "{source} to {target}, row {row}");
                }
            }
        }
    }
}
