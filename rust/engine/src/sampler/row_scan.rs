//! What one pass over a row of logits learns, and the selections that it makes cheap.
//!
//! ```text
//!   row         | 128 logits | 128 logits | 128 logits | ...
//!   chunk_max   |     7.1    |     2.0    |     9.4    | ...
//! ```
//!
//! The k-th largest chunk maximum is a lower bound on the k-th largest logit (k chunks hold at least one logit each
//! that reaches it), so the k largest logits are found by looking into the few chunks whose maximum reaches the bound.

use super::SampleError;

/// Logits per chunk.
const CHUNK: usize = 128;
/// Independent running maxima inside a chunk.
const LANES: usize = 16;

/// The maximum of a row and of each of its chunks. Buffers are reused from row to row.
#[derive(Debug, Default)]
pub(super) struct RowScan {
    chunk_max: Vec<f32>,
    ordered: Vec<f32>,
    max: f32,
}

impl RowScan {
    /// Reads `row` once.
    ///
    /// # Errors
    /// An empty row, a NaN or `+inf` anywhere, nothing but `-inf`.
    pub(super) fn scan(&mut self, row: &[f32]) -> Result<(), SampleError> {
        self.chunk_max.clear();
        self.max = f32::NEG_INFINITY;
        let mut has_nan = false;
        for chunk in row.chunks(CHUNK) {
            let (max, nan) = chunk_maximum(chunk);
            has_nan |= nan;
            self.max = if max > self.max { max } else { self.max };
            self.chunk_max.push(max);
        }
        if row.is_empty() {
            return Err(SampleError::EmptyVocabulary);
        }
        if has_nan || self.max == f32::INFINITY {
            let position = row.iter().position(|logit| logit.is_nan() || *logit == f32::INFINITY).unwrap_or(0);
            return Err(SampleError::InvalidLogit { token_id: position as u32, logit: row[position] });
        }
        if self.max == f32::NEG_INFINITY {
            return Err(SampleError::AllMasked { vocab_size: row.len() });
        }
        Ok(())
    }

    /// The largest logit of the scanned row: finite.
    pub(super) fn max(&self) -> f32 {
        self.max
    }

    /// The lowest token id that has the largest logit of `row`, the row that was scanned.
    pub(super) fn argmax(&self, row: &[f32]) -> u32 {
        let chunk = self.chunk_max.iter().position(|max| *max == self.max).unwrap_or(0);
        let start = chunk * CHUNK;
        let within = row[start..].iter().position(|logit| *logit == self.max).unwrap_or(0);
        (start + within) as u32
    }

    /// How many logits of `row`, the row that was scanned, are strictly greater than `logit`.
    pub(super) fn count_greater(&self, row: &[f32], logit: f32) -> u32 {
        let chunks = row.chunks(CHUNK).zip(&self.chunk_max).filter(|(_, max)| **max > logit);
        chunks.map(|(chunk, _)| chunk.iter().map(|other| u32::from(*other > logit)).sum::<u32>()).sum()
    }

    /// Calls `visit(token_id, logit)`, in ascending order of token id, for a superset of the `k` largest logits of
    /// `row` (the row that was scanned) and of everything equal to the k-th.
    pub(super) fn visit_largest(&mut self, row: &[f32], k: usize, mut visit: impl FnMut(u32, f32)) {
        let bound = self.lower_bound(k);
        for (index, (chunk, max)) in row.chunks(CHUNK).zip(&self.chunk_max).enumerate() {
            if *max < bound {
                continue;
            }
            for (within, &logit) in chunk.iter().enumerate() {
                if logit >= bound {
                    visit((index * CHUNK + within) as u32, logit);
                }
            }
        }
    }

    /// A value that the `k`-th largest logit reaches: `-inf` when the row has fewer chunks than `k`.
    fn lower_bound(&mut self, k: usize) -> f32 {
        if k == 0 || k > self.chunk_max.len() {
            return f32::NEG_INFINITY;
        }
        self.ordered.clear();
        self.ordered.extend_from_slice(&self.chunk_max);
        kth_largest(&mut self.ordered, k)
    }
}

/// The `k`-th largest of `values`, `1 <= k <= values.len()`; reorders them.
pub(super) fn kth_largest(values: &mut [f32], k: usize) -> f32 {
    *values.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1
}

/// The largest logit of a chunk that is not NaN, and whether a NaN is among them.
#[inline(always)]
fn chunk_maximum(chunk: &[f32]) -> (f32, bool) {
    let mut largest = [f32::NEG_INFINITY; LANES];
    let mut nan = [false; LANES];
    let mut groups = chunk.chunks_exact(LANES);
    for group in &mut groups {
        for lane in 0..LANES {
            largest[lane] = if group[lane] > largest[lane] { group[lane] } else { largest[lane] };
            nan[lane] |= group[lane].is_nan();
        }
    }
    let mut max = f32::NEG_INFINITY;
    let mut has_nan = false;
    for (&value, &is_nan) in largest.iter().zip(&nan) {
        max = if value > max { value } else { max };
        has_nan |= is_nan;
    }
    for &value in groups.remainder() {
        max = if value > max { value } else { max };
        has_nan |= value.is_nan();
    }
    (max, has_nan)
}
