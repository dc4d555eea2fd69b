//! The largest of a row, and the output projection that may keep no more than that.

use super::{Case, FORMATS, numbers, random_tensor, random_weight, rows_of};
use crate::{Backend, DType, HostMatrix, LmHeadParams, Predictions, Result, Tensor, WeightFormat};

/// An output projection of random weights on random rows.
#[derive(Debug, Clone, Copy)]
pub struct LmHeadCase {
    /// Rows of the batch.
    pub rows: usize,
    /// Width of the hidden states.
    pub hidden_size: usize,
    /// Rows of the weight.
    pub vocab_size: usize,
    /// Of the weight.
    pub format: WeightFormat,
    /// Whether there is a bias.
    pub bias: bool,
    /// Factor on the logits.
    pub multiplier: f32,
    /// What logits are kept below.
    pub soft_cap: Option<f32>,
}

impl LmHeadCase {
    /// The projection on `backend`.
    ///
    /// # Errors
    /// What loading fails with.
    pub fn params(&self, backend: &dyn Backend) -> Result<LmHeadParams> {
        Ok(LmHeadParams {
            weight: random_weight(backend, self.vocab_size, self.hidden_size, self.format, 80)?,
            bias: self.bias.then(|| random_tensor(backend, 1, self.vocab_size, 81)).transpose()?,
            multiplier: self.multiplier,
            soft_cap: self.soft_cap,
        })
    }

    /// Its rows.
    ///
    /// # Errors
    /// No memory.
    pub fn hidden(&self, backend: &dyn Backend) -> Result<Tensor> {
        random_tensor(backend, self.rows, self.hidden_size + 3, 82)?.columns(2, self.hidden_size)
    }

    fn outputs(&self, backend: &dyn Backend, num_logits: usize) -> Result<Vec<Vec<f32>>> {
        readable(backend, &backend.lm_head(&self.hidden(backend)?, &self.params(backend)?, num_logits)?)
    }
}

/// Every format, few rows and many, and vocabularies that are one cut of a kernel, several, and no whole number of panels.
pub fn lm_head_table() -> Vec<LmHeadCase> {
    let mut table = Vec::new();
    for format in FORMATS {
        let plain = LmHeadCase {
            rows: 1,
            hidden_size: 64,
            vocab_size: 48,
            format,
            bias: false,
            multiplier: 1.0,
            soft_cap: None,
        };
        table.push(plain);
        table.push(LmHeadCase { rows: 5, hidden_size: 70, vocab_size: 3001, bias: true, ..plain });
        table.push(LmHeadCase { rows: 9, vocab_size: 2500, multiplier: 0.0625, soft_cap: Some(30.0), ..plain });
        table.push(LmHeadCase { rows: 33, hidden_size: 515, vocab_size: 1037, soft_cap: Some(2.0), ..plain });
        table.push(LmHeadCase { rows: 300, hidden_size: 33, vocab_size: 520, multiplier: 1.5, ..plain });
    }
    table
}

pub(super) fn cases(cases: &mut Vec<Case>) {
    for (name, row) in hard_rows() {
        cases.push(Case::new(format!("argmax of {name}"), 0.0, move |backend| {
            let mut values = numbers(3 * row.len(), 83);
            values[row.len()..2 * row.len()].copy_from_slice(&row);
            let argmax = backend.argmax(&backend.tensor(&values, 3, row.len())?)?;
            rows_of(backend, &argmax).map(without_nan)
        }));
    }
    for case in lm_head_table() {
        let LmHeadCase { rows, hidden_size, vocab_size, format, .. } = case;
        // A linear layer's, and a tanh's.
        let tolerance = (8.0 * hidden_size as f32 * 2f32.powi(-24)).max(2e-6);
        for num_logits in [0, rows / 3, rows] {
            let name = format!(
                "lm_head linear {format} [{rows}, {hidden_size}] x [{vocab_size}, {hidden_size}], {num_logits} logits"
            );
            cases.push(Case::new(name, tolerance, move |backend| case.outputs(backend, num_logits)));
        }
    }
    for format in FORMATS {
        for rows in [2, 20] {
            let name = |what| format!("lm_head linear {format}, {rows} rows, {what}");
            cases.push(Case::new(name("ties"), 1e-5, move |backend| repeated(backend, rows, format)));
            cases.push(Case::new(name("not finite"), 1e-5, move |backend| not_finite(backend, rows, format)));
        }
    }
}

/// Rows whose largest element is not obvious.
fn hard_rows() -> Vec<(String, Vec<f32>)> {
    let infinity = f32::INFINITY;
    let mut rows = Vec::new();
    for n in [1, 15, 16, 17, 100, 1030] {
        let last = n - 1;
        let with = |changes: &[(usize, f32)]| {
            let mut row = numbers(n, 84);
            changes.iter().for_each(|(col, value)| row[*col] = *value);
            row
        };
        rows.push((format!("{n} equal"), vec![-0.5; n]));
        rows.push((format!("{n}, zeros of both signs"), (0..n).map(|i| if i % 2 == 0 { -0.0 } else { 0.0 }).collect()));
        rows.push((format!("{n} times -inf"), vec![-infinity; n]));
        rows.push((format!("{n}, -inf but for the last"), [vec![-infinity; last], vec![-9.0]].concat()));
        rows.push((format!("{n}, equals in the middle and last"), with(&[(n / 2, 2.0), (last, 2.0)])));
        rows.push((format!("{n}, +inf in the middle"), with(&[(n / 2, infinity)])));
        rows.push((format!("{n}, NaN after +inf"), with(&[(0, infinity), (last, f32::NAN)])));
        rows.push((format!("{n}, NaN before NaN"), with(&[(n / 2, f32::NAN), (last, -f32::NAN)])));
    }
    rows
}

/// A vocabulary in which every token stands three times, at distances that fall into other vectors and other cuts: of equal
/// logits the first counts.
fn repeated(backend: &dyn Backend, rows: usize, format: WeightFormat) -> Result<Vec<Vec<f32>>> {
    let (hidden_size, tokens) = (64, 1007);
    let bytes: Vec<u8> = numbers(tokens * hidden_size, 85).iter().flat_map(|v| v.to_le_bytes()).collect();
    let part = HostMatrix::new(DType::F32, tokens, hidden_size, &bytes)?;
    let weight = backend.load_weight(&[part, part, part], format)?;
    let params = LmHeadParams { weight, bias: None, multiplier: 1.0, soft_cap: None };
    readable(backend, &backend.lm_head(&random_tensor(backend, rows, hidden_size, 86)?, &params, 1)?)
}

/// Logits that a bias makes infinite, or NaN.
fn not_finite(backend: &dyn Backend, rows: usize, format: WeightFormat) -> Result<Vec<Vec<f32>>> {
    let (hidden_size, vocab_size) = (64, 2100);
    let mut bias = numbers(vocab_size, 87);
    (bias[7], bias[900], bias[1999], bias[2099]) = (f32::NEG_INFINITY, f32::INFINITY, f32::NAN, f32::NAN);
    let params = LmHeadParams {
        weight: random_weight(backend, vocab_size, hidden_size, format, 88)?,
        bias: Some(backend.tensor(&bias, 1, vocab_size)?),
        multiplier: 1.0,
        soft_cap: None,
    };
    readable(backend, &backend.lm_head(&random_tensor(backend, rows, hidden_size, 89)?, &params, 0)?)
}

fn readable(backend: &dyn Backend, predictions: &Predictions) -> Result<Vec<Vec<f32>>> {
    Ok(without_nan([rows_of(backend, &predictions.logits)?, rows_of(backend, &predictions.argmax)?].concat()))
}

/// Rows that can be compared: NaN, which equals nothing, and infinities, which differ from themselves by NaN, as numbers.
fn without_nan(rows: Vec<Vec<f32>>) -> Vec<Vec<f32>> {
    let number = |value: f32| if value.is_nan() { 1e30 } else { value.clamp(-1e20, 1e20) };
    rows.into_iter().map(|row| row.into_iter().map(number).collect()).collect()
}
