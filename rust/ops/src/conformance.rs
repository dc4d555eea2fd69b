//! The table of cases that holds a backend to the reference.
//!
//! A [`Case`] computes one op on given inputs with whatever backend it is handed. [`Case::check`] compares the result with
//! [`ReferenceBackend`]'s; tests of bit equality (threads, instruction sets) compare two runs of [`Case::outputs`].
//! Shapes are those that bite: one row, odd widths, tails of vectors and of tiles, ragged batches, blocks half filled.

mod attention;
mod cached_heads;
mod elementwise;
mod encoder;
mod linear;
mod lm_head;
mod moe;
mod norm;

use std::fmt;

use crate::{Backend, DType, Error, HostMatrix, ReferenceBackend, Result, Tensor, Weight, WeightFormat};

pub use attention::{AttentionCase, attention_table};
pub use cached_heads::{CachedHeads, cached_heads_table};
pub use encoder::{DistanceCase, EncoderCase, encoder_table};
pub use lm_head::{LmHeadCase, lm_head_table};
pub use moe::{MoeCase, moe_table};

/// Every weight dtype.
pub const DTYPES: [DType; 3] = [DType::F32, DType::F16, DType::BF16];

/// Weight formats: every dtype, eight bits, and four bits in groups of each size and kind.
pub const FORMATS: [WeightFormat; 7] = [
    WeightFormat::Dense(DType::F32),
    WeightFormat::Dense(DType::F16),
    WeightFormat::Dense(DType::BF16),
    WeightFormat::Int8,
    WeightFormat::Int4 { group_size: 32, symmetric: true },
    WeightFormat::Int4 { group_size: 64, symmetric: false },
    WeightFormat::Int4 { group_size: 128, symmetric: true },
];

type Compute = Box<dyn Fn(&dyn Backend) -> Result<Vec<Vec<f32>>> + Send + Sync>;

/// One op on one set of inputs.
pub struct Case {
    name: String,
    tolerance: f32,
    compute: Compute,
}

/// A value that is further from the reference's than the case allows.
#[derive(Debug, thiserror::Error)]
pub enum Mismatch {
    /// The op failed on one of the backends.
    #[error("{case}: {source}")]
    Failed {
        /// The case.
        case: String,
        /// What the op said.
        source: Error,
    },
    /// Another number of rows or columns.
    #[error("{case}: the shape differs from the reference's")]
    Shape {
        /// The case.
        case: String,
    },
    /// A value too far away.
    #[error("{case}: row {row}, column {col} is {got}, the reference has {want} (tolerance {tolerance:e})")]
    Value {
        /// The case.
        case: String,
        /// Row of the result.
        row: usize,
        /// Column of the result.
        col: usize,
        /// The backend's value.
        got: f32,
        /// The reference's value.
        want: f32,
        /// How far apart they may be, relative to 1 and to the reference's value.
        tolerance: f32,
    },
}

impl fmt::Debug for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Case").field("name", &self.name).field("tolerance", &self.tolerance).finish_non_exhaustive()
    }
}

impl Case {
    fn new(
        name: String,
        tolerance: f32,
        compute: impl Fn(&dyn Backend) -> Result<Vec<Vec<f32>>> + Send + Sync + 'static,
    ) -> Self {
        Self { name, tolerance, compute: Box::new(compute) }
    }

    /// Op, dtype and shapes.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rows `backend` computes.
    ///
    /// # Errors
    /// What the op fails with.
    pub fn outputs(&self, backend: &dyn Backend) -> Result<Vec<Vec<f32>>> {
        (self.compute)(backend)
    }

    /// Compares `backend`'s rows with the reference's.
    ///
    /// # Errors
    /// [`Mismatch`] with the first value out of tolerance, or the failure of an op.
    pub fn check(&self, backend: &dyn Backend) -> std::result::Result<(), Mismatch> {
        let failed = |source| Mismatch::Failed { case: self.name.clone(), source };
        let got = self.outputs(backend).map_err(failed)?;
        let want = self.outputs(&ReferenceBackend).map_err(failed)?;
        if got.len() != want.len() || got.iter().zip(&want).any(|(got, want)| got.len() != want.len()) {
            return Err(Mismatch::Shape { case: self.name.clone() });
        }
        for (row, (got, want)) in got.iter().zip(&want).enumerate() {
            for (col, (got, want)) in got.iter().zip(want).enumerate() {
                let allowed = self.tolerance * want.abs().max(1.0);
                if (got - want).abs() > allowed || got.is_nan() || want.is_nan() {
                    let (case, tolerance) = (self.name.clone(), self.tolerance);
                    return Err(Mismatch::Value { case, row, col, got: *got, want: *want, tolerance });
                }
            }
        }
        Ok(())
    }
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    linear::linear_cases(&mut cases);
    linear::fused_linear_cases(&mut cases);
    linear::embedding_cases(&mut cases);
    norm::cases(&mut cases);
    elementwise::cases(&mut cases);
    elementwise::rotary_cases(&mut cases);
    attention::attention_cases(&mut cases);
    cached_heads::cases(&mut cases);
    moe::cases(&mut cases);
    encoder::encoder_attention_cases(&mut cases);
    encoder::unfold_cases(&mut cases);
    lm_head::cases(&mut cases);
    cases
}

/// `n` numbers from -1 to 1, the same for the same seed on every machine.
pub fn numbers(n: usize, seed: u64) -> Vec<f32> {
    // SplitMix64 (Steele, Lea and Flood 2014).
    (0..n as u64)
        .map(|i| {
            let mut z = (seed << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

/// A weight of random numbers, converted to `format`.
///
/// # Errors
/// What loading fails with.
pub fn random_weight(
    backend: &dyn Backend,
    rows: usize,
    cols: usize,
    format: impl Into<WeightFormat>,
    seed: u64,
) -> Result<Weight> {
    let bytes: Vec<u8> = numbers(rows * cols, seed).iter().flat_map(|v| v.to_le_bytes()).collect();
    backend.load_weight(&[HostMatrix::new(DType::F32, rows, cols, &bytes)?], format.into())
}

/// A tensor of random numbers.
///
/// # Errors
/// What the allocation fails with.
pub fn random_tensor(backend: &dyn Backend, rows: usize, cols: usize, seed: u64) -> Result<Tensor> {
    backend.tensor(&numbers(rows * cols, seed), rows, cols)
}

/// The bits of rows, for tests that compare them.
pub fn bits(rows: Vec<Vec<f32>>) -> Vec<Vec<u32>> {
    rows.into_iter().map(|row| row.into_iter().map(f32::to_bits).collect()).collect()
}

/// The rows of a tensor.
///
/// # Errors
/// What reading fails with.
pub fn rows_of(backend: &dyn Backend, x: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::new();
    backend.read_rows(x, &mut |_, values| rows.push(values.to_vec()))?;
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_conforms_to_itself() {
        for case in cases() {
            case.check(&ReferenceBackend).unwrap();
        }
    }

    #[test]
    fn numbers_fill_the_range_evenly() {
        let values = numbers(10_000, 5);
        let mean = values.iter().sum::<f32>() / 10_000.0;
        assert!(mean.abs() < 0.03 && values.iter().all(|v| (-1.0..1.0).contains(v)));
        assert_ne!(numbers(4, 5), numbers(4, 6));
    }
}
