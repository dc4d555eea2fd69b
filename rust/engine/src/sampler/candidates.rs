//! The tokens that may be drawn, with their weights.

use rustllm_core::SamplingParams;

use super::row_scan::RowScan;
use super::truncation::{self, TopP};
use super::{rng, softmax};

/// Candidate tokens in ascending order of id and their softmax weights (the likeliest weighs 1, a dropped one 0).
///
/// With top_k few tokens are listed in `token_ids`; without it every token is a candidate and the list is not written.
/// Buffers are reused from row to row.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    token_ids: Vec<u32>,
    lists_token_ids: bool,
    weights: Vec<f32>,
    ordered: Vec<f32>,
    top_p: TopP,
    block_mass: Vec<f64>,
}

impl Candidates {
    /// Applies temperature, min_p, top_k and top_p to `row`, of which `scan` is the scan.
    ///
    /// top_k is cut first, so that the exponential is taken of few logits: min_p and top_k each keep the logits above
    /// some value, so their order does not matter.
    pub(super) fn fill(&mut self, row: &[f32], scan: &mut RowScan, params: &SamplingParams) {
        let top_k = params.top_k as usize;
        self.lists_token_ids = top_k > 0 && top_k < row.len();
        if self.lists_token_ids {
            truncation::top_k(row, scan, top_k, &mut self.token_ids, &mut self.weights, &mut self.ordered);
        } else {
            self.weights.clear();
            self.weights.extend_from_slice(row);
        }
        softmax::weigh(&mut self.weights, scan.max(), inverse(params.temperature));
        if params.min_p > 0.0 {
            truncation::min_p(&mut self.weights, params.min_p);
        }
        if params.top_p < 1.0 {
            self.top_p.apply(&mut self.weights, params.top_p);
        }
    }

    /// Draws the token at `position` of the sequence seeded with `seed`.
    pub(super) fn draw(&mut self, seed: u64, position: u64) -> u32 {
        let index = truncation::draw(&self.weights, rng::uniform(seed, position), &mut self.block_mass);
        self.token_id(index)
    }

    /// Writes `row` as sampling saw it: divided by the temperature, and `-inf` where a token cannot be drawn.
    pub(super) fn write_processed_logits(&self, row: &[f32], temperature: f32, processed: &mut Vec<f32>) {
        processed.clear();
        processed.resize(row.len(), f32::NEG_INFINITY);
        for (index, _) in self.weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
            let token_id = self.token_id(index) as usize;
            processed[token_id] = (row[token_id] * inverse(temperature)).clamp(f32::MIN, f32::MAX);
        }
    }

    fn token_id(&self, index: usize) -> u32 {
        if self.lists_token_ids { self.token_ids[index] } else { index as u32 }
    }
}

/// `1 / temperature`, kept positive and finite: times `-inf` it stays `-inf`.
pub(super) fn inverse(temperature: f32) -> f32 {
    (1.0 / temperature).clamp(f32::MIN_POSITIVE, f32::MAX)
}
