//! The table of cases that holds a backend to the reference.
//!
//! A [`Case`] computes one op on given inputs with whatever backend it is handed. [`Case::check`] compares the result with
//! [`ReferenceBackend`]'s; tests of bit equality (threads, instruction sets) compare two runs of [`Case::outputs`].
//! Shapes are those that bite: one row, odd widths, tails of vectors and of tiles, ragged batches, blocks half filled.

mod attention;
mod encoder;
mod lm_head;
mod moe;

use std::fmt;

use crate::{
    Activation, Backend, DType, Error, HostMatrix, ReferenceBackend, Result, RopeTable, Tensor, Weight, WeightFormat,
};

pub use attention::{AttentionCase, attention_table};
pub use encoder::{EncoderCase, encoder_table};
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
    linear_cases(&mut cases);
    fused_linear_cases(&mut cases);
    embedding_cases(&mut cases);
    norm_cases(&mut cases);
    elementwise_cases(&mut cases);
    rotary_cases(&mut cases);
    attention::attention_cases(&mut cases);
    moe::cases(&mut cases);
    encoder::encoder_attention_cases(&mut cases);
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

/// The rows of a tensor.
///
/// # Errors
/// What reading fails with.
pub fn rows_of(backend: &dyn Backend, x: &Tensor) -> Result<Vec<Vec<f32>>> {
    let mut rows = Vec::new();
    backend.read_rows(x, &mut |_, values| rows.push(values.to_vec()))?;
    Ok(rows)
}

fn linear_cases(cases: &mut Vec<Case>) {
    let shapes = [
        // rows, in_features, out_features
        (1, 1, 1),
        (1, 64, 48),
        (1, 333, 129),
        (2, 33, 17),
        (3, 16, 65),
        (5, 70, 80),
        (7, 129, 31),
        (8, 64, 64),
        (16, 100, 50),
        (17, 1027, 40),
        (33, 48, 130),
        (64, 515, 33),
        (130, 77, 200),
        (130, 1030, 16),
    ];
    for format in FORMATS {
        for (rows, k, n) in shapes {
            // Sums of k products of numbers below 1 in another order: each addition rounds by at most 2^-24 of a partial sum
            // that is typically sqrt(k), and the roundings add up as a random walk. Eight times that.
            let tolerance = 8.0 * (k as f32) * 2f32.powi(-24);
            for bias in [false, true] {
                let name = format!("linear {format} [{rows}, {k}] x [{n}, {k}]{}", if bias { " + bias" } else { "" });
                cases.push(Case::new(name, tolerance.max(1e-6), move |backend| {
                    // A view that starts and ends inside its storage.
                    let x = random_tensor(backend, rows, k + 8, 1)?.columns(5, k)?;
                    let weight = random_weight(backend, n, k, format, 2)?;
                    let bias = bias.then(|| random_tensor(backend, 1, n, 3)).transpose()?;
                    rows_of(backend, &backend.linear(&x, &weight, bias.as_ref())?)
                }));
            }
        }
    }
}

fn fused_linear_cases(cases: &mut Vec<Case>) {
    // Widths of gate and up that are whole vectors, and one that is not; rows of one register tile, of several and of several tasks.
    let shapes = [(1, 64, 16), (6, 333, 48), (8, 70, 23), (24, 129, 80), (300, 40, 272)];
    for format in FORMATS {
        for (rows, k, n) in shapes {
            // As `linear`'s, of two factors, one of which an activation has passed.
            let tolerance = 16.0 * (k as f32) * 2f32.powi(-24);
            for bias in [false, true] {
                let bias_name = if bias { " + bias" } else { "" };
                let name = |op| format!("{op} {format} [{rows}, {k}] x [2 x {n}, {k}]{bias_name}");
                let inputs = move |backend: &dyn Backend| -> Result<(Tensor, Weight, Option<Tensor>)> {
                    let x = random_tensor(backend, rows, k + 8, 1)?.columns(5, k)?;
                    let weight = random_weight(backend, 2 * n, k, format, 2)?;
                    Ok((x, weight, bias.then(|| random_tensor(backend, 1, 2 * n, 3)).transpose()?))
                };
                let tolerance = tolerance.max(2e-6);
                cases.push(Case::new(name("gated_linear"), tolerance, move |backend| {
                    let (x, weight, bias) = inputs(backend)?;
                    rows_of(backend, &backend.gated_linear(&x, &weight, bias.as_ref(), Activation::Silu)?)
                }));
                cases.push(Case::new(name("activated_linear"), tolerance, move |backend| {
                    let (x, weight, bias) = inputs(backend)?;
                    rows_of(backend, &backend.activated_linear(&x, &weight, bias.as_ref(), Activation::Gelu)?)
                }));
            }
        }
    }
}

fn embedding_cases(cases: &mut Vec<Case>) {
    for format in FORMATS {
        for (rows, cols, count) in [(1, 1, 1), (50, 33, 7), (100, 64, 130)] {
            let name = format!("embedding {format} {count} of [{rows}, {cols}]");
            cases.push(Case::new(name, 0.0, move |backend| {
                let table = random_weight(backend, rows, cols, format, 4)?;
                let ids = backend.indices((0..count).map(|i| (i * 37 % rows) as u32).collect())?;
                rows_of(backend, &backend.embedding(&ids, &table)?)
            }));
        }
    }
    cases.push(Case::new("gather_rows".into(), 0.0, |backend| {
        let x = random_tensor(backend, 9, 40, 5)?.columns(3, 33)?;
        let rows = backend.indices(vec![8, 0, 3, 3, 7])?;
        rows_of(backend, &backend.gather_rows(&x, &rows)?)
    }));
}

fn norm_cases(cases: &mut Vec<Case>) {
    // Sums of up to a few thousand squares in another order, then a square root: a few units in the last place.
    let tolerance = 4e-6;
    let eps = 1e-5;
    for (rows, cols) in [(1, 1), (1, 64), (2, 100), (3, 4097), (17, 33), (130, 16)] {
        cases.push(Case::new(format!("rms_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols + 3, 6)?.columns(3, cols)?;
            let weight = random_tensor(backend, 1, cols, 7)?;
            rows_of(backend, &backend.rms_norm(&x, &weight, eps)?)
        }));
        cases.push(Case::new(format!("add_rms_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols, 6)?;
            let mut residual = random_tensor(backend, rows, cols, 8)?;
            let weight = random_tensor(backend, 1, cols, 7)?;
            let normed = backend.add_rms_norm(&x, &mut residual, &weight, eps)?;
            Ok([rows_of(backend, &normed)?, rows_of(backend, &residual)?].concat())
        }));
        for bias in [false, true] {
            let name = format!("layer_norm [{rows}, {cols}], bias {bias}");
            cases.push(Case::new(name, tolerance, move |backend| {
                let x = random_tensor(backend, rows, cols, 9)?;
                let weight = random_tensor(backend, 1, cols, 10)?;
                let bias = bias.then(|| random_tensor(backend, 1, cols, 11)).transpose()?;
                rows_of(backend, &backend.layer_norm(&x, &weight, bias.as_ref(), eps)?)
            }));
        }
        cases.push(Case::new(format!("add_layer_norm [{rows}, {cols}]"), tolerance, move |backend| {
            let x = random_tensor(backend, rows, cols, 9)?;
            let mut residual = random_tensor(backend, rows, cols, 8)?;
            let (weight, bias) = (random_tensor(backend, 1, cols, 10)?, random_tensor(backend, 1, cols, 11)?);
            let normed = backend.add_layer_norm(&x, &mut residual, &weight, Some(&bias), eps)?;
            Ok([rows_of(backend, &normed)?, rows_of(backend, &residual)?].concat())
        }));
    }
    cases.push(Case::new("rms_norm of each head, [5, 4 x 40]".into(), tolerance, move |backend| {
        let x = random_tensor(backend, 5, 200, 12)?.columns(20, 160)?;
        rows_of(backend, &backend.rms_norm(&x, &random_tensor(backend, 1, 40, 13)?, eps)?)
    }));
}

fn elementwise_cases(cases: &mut Vec<Case>) {
    // Polynomials for exp and erfc, good to 2e-7 of a value, and the reference's own rounding.
    let tolerance = 2e-6;
    for activation in [Activation::Silu, Activation::Gelu, Activation::GeluTanh, Activation::Relu, Activation::Tanh] {
        for (rows, cols) in [(1, 2), (3, 34), (17, 1030)] {
            cases.push(Case::new(format!("{activation:?} [{rows}, {cols}]"), tolerance, move |backend| {
                rows_of(backend, &backend.activation(&spread(backend, rows, cols)?, activation)?)
            }));
            cases.push(Case::new(format!("gated {activation:?} [{rows}, {cols}]"), tolerance, move |backend| {
                rows_of(backend, &backend.gated_activation(&spread(backend, rows, cols)?, activation)?)
            }));
        }
    }
    for (rows, cols) in [(1, 1), (5, 33), (130, 300)] {
        cases.push(Case::new(format!("scale [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols + 1, 15)?.columns(1, cols)?;
            backend.scale(&mut x, 0.22)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("clamp [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols + 1, 15)?.columns(1, cols)?;
            backend.clamp(&mut x, 0.4)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("soft_cap [{rows}, {cols}]"), tolerance, move |backend| {
            let mut x = spread(backend, rows, cols)?;
            backend.soft_cap(&mut x, 5.0)?;
            rows_of(backend, &x)
        }));
        cases.push(Case::new(format!("add_assign [{rows}, {cols}]"), 0.0, move |backend| {
            let mut x = random_tensor(backend, rows, cols, 15)?;
            backend.add_assign(&mut x, &random_tensor(backend, rows, cols + 1, 16)?.columns(1, cols)?)?;
            rows_of(backend, &x)
        }));
    }
}

/// Numbers from -12 to 12, where activations go from nothing to all.
fn spread(backend: &dyn Backend, rows: usize, cols: usize) -> Result<Tensor> {
    let values: Vec<f32> = numbers(rows * cols, 14).iter().map(|v| 12.0 * v).collect();
    backend.tensor(&values, rows, cols)
}

fn rotary_cases(cases: &mut Vec<Case>) {
    for (heads, head_dim, width) in [(1, 1, 1), (3, 24, 8), (5, 40, 40)] {
        cases.push(Case::new(format!("fill_heads {heads} of {head_dim} with {width}"), 0.0, move |backend| {
            let mut x = random_tensor(backend, 7, heads * head_dim + 3, 70)?.columns(2, heads * head_dim)?;
            let part = random_tensor(backend, 7, width + 1, 71)?.columns(1, width)?;
            backend.fill_heads(&mut x, &part, head_dim)?;
            rows_of(backend, &x)
        }));
    }
    for (heads, head_dim, rotary_dim) in [(1, 2, 2), (3, 40, 40), (2, 64, 64), (4, 80, 32), (2, 96, 96)] {
        // Two products and a sum a value, fused or not.
        let name = format!("rotary {heads} heads of {head_dim}, {rotary_dim} rotated");
        cases.push(Case::new(name, 1e-6, move |backend| {
            let rope = RopeTable::unscaled(backend, 600, rotary_dim, 10_000.0)?;
            // Keys inside a fused projection: what lies beside them must stay.
            let x = random_tensor(backend, 5, heads * head_dim + 7, 17)?;
            let mut keys = x.columns(4, heads * head_dim)?;
            backend.rotary(&mut keys, &rope, &backend.indices(vec![0, 1, 17, 599, 3])?, head_dim)?;
            rows_of(backend, &keys)
        }));
    }
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
