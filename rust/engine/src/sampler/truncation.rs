//! top_k, min_p and top_p: which tokens may be drawn. Nothing here sorts the vocabulary.

use super::row_scan::{RowScan, kth_largest};
use super::softmax;

/// Keeps the `k` largest logits of `row`, and all that equal the k-th: writes their token ids, ascending, and their
/// logits. `1 <= k < row.len()`; `ordered` is scratch.
pub(super) fn top_k(
    row: &[f32],
    scan: &mut RowScan,
    k: usize,
    token_ids: &mut Vec<u32>,
    logits: &mut Vec<f32>,
    ordered: &mut Vec<f32>,
) {
    token_ids.clear();
    logits.clear();
    scan.visit_largest(row, k, |token_id, logit| {
        token_ids.push(token_id);
        logits.push(logit);
    });
    ordered.clear();
    ordered.extend_from_slice(logits);
    let threshold = kth_largest(ordered, k);
    let mut kept = 0;
    for index in 0..logits.len() {
        if logits[index] >= threshold {
            token_ids[kept] = token_ids[index];
            logits[kept] = logits[index];
            kept += 1;
        }
    }
    token_ids.truncate(kept);
    logits.truncate(kept);
}

/// Takes the weight of every token less likely than `min_p` times the likeliest, whose weight is 1.
pub(super) fn min_p(weights: &mut [f32], min_p: f32) {
    let bound = min_p.min(1.0);
    for weight in weights {
        *weight = if *weight < bound { 0.0 } else { *weight };
    }
}

/// top_p: keeps the smallest set of likeliest tokens whose share of the weight reaches p.
///
/// Tokens are taken by descending weight, equal weights by ascending id; a token is kept if the share of those *before*
/// it is below p, so the token that crosses p is kept, and the first always. The weight at which that happens is found
/// without a sort, ten bits at a time, like a radix sort that follows one bucket only:
///
/// ```text
///   bits of a weight   30........20 19........10 9.........0     (a float in 0..=1 orders as its bits do)
///   weight per bucket  | kept | kept | crossing | dropped |
///                                         └─► | kept | crossing | dropped |
///                                                          └─► one weight, of which the first few are kept
/// ```
#[derive(Debug, Default)]
pub(super) struct TopP {
    mass: Vec<[f64; TOP_P_LANES]>,
    crossing: Vec<f32>,
}

const DIGIT_BITS: u32 = 10;
const NUM_BUCKETS: usize = 1 << DIGIT_BITS;
/// Partial sums per bucket: additions to one bucket in a row need not wait for each other.
const TOP_P_LANES: usize = 4;

impl TopP {
    /// Takes the weight of every token outside the set. Weights lie in `[0, 1]`, in ascending order of token id.
    pub(super) fn apply(&mut self, weights: &mut [f32], top_p: f32) {
        let total = fill_buckets(&mut self.mass, weights, 2 * DIGIT_BITS);
        let mut target = f64::from(top_p) * total;
        let bucket = crossing_bucket(&self.mass, &mut target);
        self.crossing.clear();
        self.crossing.extend(weights.iter().filter(|weight| digit(**weight, 2 * DIGIT_BITS) == bucket));
        for shift in [DIGIT_BITS, 0] {
            fill_buckets(&mut self.mass, &self.crossing, shift);
            let bucket = crossing_bucket(&self.mass, &mut target);
            self.crossing.retain(|weight| digit(*weight, shift) == bucket);
        }
        let Some(&last) = self.crossing.first() else { return };
        for weight in weights.iter_mut() {
            *weight = if *weight < last { 0.0 } else { *weight };
        }
        let num_kept = (target / f64::from(last)).ceil().max(1.0);
        if num_kept < self.crossing.len() as f64 {
            for weight in weights.iter_mut().filter(|weight| **weight == last).skip(num_kept as usize) {
                *weight = 0.0;
            }
        }
    }
}

/// Adds every weight to the bucket of its digit at `shift`; returns the total.
fn fill_buckets(mass: &mut Vec<[f64; TOP_P_LANES]>, weights: &[f32], shift: u32) -> f64 {
    mass.clear();
    mass.resize(NUM_BUCKETS, [0.0; TOP_P_LANES]);
    let mut groups = weights.chunks_exact(TOP_P_LANES);
    for group in &mut groups {
        for lane in 0..TOP_P_LANES {
            mass[digit(group[lane], shift)][lane] += f64::from(group[lane]);
        }
    }
    for &weight in groups.remainder() {
        mass[digit(weight, shift)][0] += f64::from(weight);
    }
    mass.iter().map(bucket_mass).sum()
}

/// The bucket in which the running weight, from the largest down, reaches `target`; `target` becomes what is to be
/// reached inside it. Should rounding leave the target above the sum, it is the last bucket, and all of it is kept.
fn crossing_bucket(mass: &[[f64; TOP_P_LANES]], target: &mut f64) -> usize {
    let mut last = 0;
    for (bucket, mass) in mass.iter().map(bucket_mass).enumerate().rev().filter(|(_, mass)| *mass > 0.0) {
        if mass >= *target {
            return bucket;
        }
        *target -= mass;
        last = bucket;
    }
    *target = f64::INFINITY;
    last
}

fn bucket_mass(lanes: &[f64; TOP_P_LANES]) -> f64 {
    (lanes[0] + lanes[1]) + (lanes[2] + lanes[3])
}

fn digit(weight: f32, shift: u32) -> usize {
    (weight.to_bits() >> shift) as usize & (NUM_BUCKETS - 1)
}

/// The token a uniform number `0 <= uniform < 1` points at: the first, in ascending order of index, at which the
/// running weight exceeds `uniform` times the total. `block_mass` is scratch; some weight is positive.
///
/// Blocks are summed first and the walk enters one of them only. A token of weight zero is never returned, also where
/// rounding makes the running weight and the total disagree in their last bits.
pub(super) fn draw(weights: &[f32], uniform: f64, block_mass: &mut Vec<f64>) -> usize {
    const BLOCK: usize = 1024;
    block_mass.clear();
    block_mass.extend(weights.chunks(BLOCK).map(softmax::sum));
    let target = uniform * block_mass.iter().sum::<f64>();
    let mut running = 0.0;
    for (block, (&mass, weights)) in block_mass.iter().zip(weights.chunks(BLOCK)).enumerate() {
        if running + mass > target {
            return block * BLOCK + draw_within(weights, target - running);
        }
        running += mass;
    }
    weights.iter().rposition(|weight| *weight > 0.0).unwrap_or(0)
}

/// The index at which the running weight exceeds `target`, or else the last of positive weight.
fn draw_within(weights: &[f32], target: f64) -> usize {
    let mut running = 0.0;
    let mut last = 0;
    for (index, &weight) in weights.iter().enumerate().filter(|(_, weight)| **weight > 0.0) {
        running += f64::from(weight);
        last = index;
        if running > target {
            break;
        }
    }
    last
}
