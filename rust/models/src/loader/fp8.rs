//! FP8 (E4M3, arXiv:2209.05433): a byte a number, and scales that whole matrices, rows or blocks of a matrix have in common.
//!
//! ```text
//!   name.weight             [rows, cols]            sign, four bits of exponent, three of mantissa
//!   name.weight_scale_inv   [rows / 128, cols / 128] for blocks of 128 rows and columns, or one number: the factor
//!   name.weight_scale       [rows, 1], one number, or blocks again: what compressed-tensors calls it
//! ```

use rustllm_ops::{DType, HostMatrix, Release};
use safetensors::tensor::Dtype;

use super::owned_matrix::OwnedMatrix;
use super::pieces::fill_pieces;
use super::{Loader, Result};
use crate::config::Fp8Config;

/// A matrix as a checkpoint has it, or as it was unpacked.
pub(super) enum StoredMatrix<'a> {
    Mapped(HostMatrix<'a>),
    Unpacked(OwnedMatrix),
}

impl StoredMatrix<'_> {
    /// The matrix as backends take it.
    pub(super) fn view(&self) -> Result<HostMatrix<'_>> {
        match self {
            Self::Mapped(matrix) => Ok(*matrix),
            Self::Unpacked(matrix) => matrix.view(),
        }
    }
}

/// Factors of a matrix' numbers.
struct Scales {
    /// Row after row.
    values: Vec<f32>,
    /// Rows and columns that have one in common.
    block: (usize, usize),
}

impl<'a> Loader<'a> {
    /// `name.weight`, unpacked where it is in FP8.
    pub(super) fn stored_matrix(&self, name: &str, rows: usize, cols: usize) -> Result<StoredMatrix<'a>> {
        let weight = format!("{name}.weight");
        let stored = self.loading.checkpoint.get(&self.full(&weight));
        let Some(blocks) = self.loading.fp8.filter(|_| stored.is_some_and(|view| view.dtype == Dtype::F8_E4M3)) else {
            return Ok(StoredMatrix::Mapped(self.matrix(&weight, rows, cols)?));
        };
        let view = self.view(&weight, &[rows, cols])?;
        let bytes = dequantize(view.bytes, cols, &self.fp8_scales(&weight, (rows, cols), blocks)?);
        view.file.release(view.bytes);
        Ok(StoredMatrix::Unpacked(OwnedMatrix { dtype: DType::BF16, cols, bytes }))
    }

    fn fp8_scales(
        &self,
        weight: &str,
        (rows, cols): (usize, usize),
        Fp8Config { block_rows, block_cols }: Fp8Config,
    ) -> Result<Scales> {
        let [inverse, plain] = ["scale_inv", "scale"].map(|end| format!("{weight}_{end}"));
        let name = if self.has(&plain) { plain } else { inverse };
        let found = self.loading.checkpoint.get(&self.full(&name)).map_or(&[][..], |view| view.shape);
        let (block, shape) = match found {
            _ if found.iter().product::<usize>() == 1 => ((rows, cols), found.to_vec()),
            [found_rows, 1] if *found_rows == rows => ((1, cols), vec![rows, 1]),
            _ => ((block_rows, block_cols), vec![rows.div_ceil(block_rows), cols.div_ceil(block_cols)]),
        };
        let (dtype, view) = self.tensor(&name, &shape)?;
        Ok(Scales { values: dtype.decode(view.bytes), block })
    }
}

/// The numbers that rows of `cols` `codes` stand for, in bfloat16.
fn dequantize(codes: &[u8], cols: usize, scales: &Scales) -> Vec<u8> {
    let table: [f32; 256] = std::array::from_fn(|code| value(code as u8));
    let (block_rows, block_cols) = scales.block;
    let blocks = cols.div_ceil(block_cols);
    let mut bytes = vec![0; 2 * codes.len()];
    fill_pieces(&mut bytes, 2 * cols, |row, to| {
        let of_row = &scales.values[row / block_rows * blocks..][..blocks];
        let codes = &codes[row * cols..(row + 1) * cols];
        for ((to, codes), scale) in to.chunks_mut(2 * block_cols).zip(codes.chunks(block_cols)).zip(of_row) {
            for (to, code) in to.chunks_exact_mut(2).zip(codes) {
                to.copy_from_slice(&bfloat16(table[usize::from(*code)] * scale));
            }
        }
    });
    bytes
}

/// What a byte stands for.
fn value(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7));
    let magnitude = match (exponent, code & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (8.0 + mantissa) * 2f32.powi(exponent - 10),
    };
    if code & 128 == 0 { magnitude } else { -magnitude }
}

/// The nearest number of bfloat16, of two the even one.
fn bfloat16(value: f32) -> [u8; 2] {
    let [_, _, low, high] = DType::BF16.round(value).to_le_bytes();
    [low, high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_stand_for_what_the_format_says() {
        assert_eq!(
            [0x00, 0x01, 0x08, 0x38, 0x39, 0x7e].map(value),
            [0.0, 2f32.powi(-9), 2f32.powi(-6), 1.0, 1.125, 448.0]
        );
        assert_eq!([0x80, 0xb8, 0xfe].map(value), [-0.0, -1.0, -448.0]);
        assert!([0x7f, 0xff].map(value).iter().all(|value| value.is_nan()));
    }

    #[test]
    fn blocks_have_their_own_scales() {
        // Rows of 3 in blocks of 2 x 2, the last ones narrower.
        let scales = Scales { values: vec![1.0, 2.0, 3.0, 4.0], block: (2, 2) };
        let bytes = dequantize(&[0x38; 9], 3, &scales);
        assert_eq!(DType::BF16.decode(&bytes), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0]);
        let of_rows = Scales { values: vec![0.5, 3.1], block: (1, 2) };
        let rounded = DType::BF16.round(3.1);
        assert_eq!(DType::BF16.decode(&dequantize(&[0x38; 4], 2, &of_rows)), [0.5, 0.5, rounded, rounded]);
    }
}
