//! The exponential and the sums behind every softmax of the sampler.
//!
//! Both are written out here, without the platform's `exp` and with the order of every addition fixed, so that a weight
//! and a total have the same bits on every machine, whatever instructions the compiler chose.

/// Arguments below this give a weight of exactly zero: a token less likely than the likeliest by a factor of `e^86`
/// (about `2 * 10^37`) is never drawn. The bound keeps every weight a normal float32.
pub(super) const SMALLEST_EXPONENT: f32 = -86.0;

/// Independent partial sums of [`sum`]; fixed, because it fixes the order of the additions.
const LANES: usize = 8;
/// Values per block of [`sum_of_exponentials`]: small enough for the first-level cache.
const BLOCK: usize = 512;

/// `e^x` for `x <= 0`, to within 2 ulp of float32; exactly 1 at 0 and exactly 0 below [`SMALLEST_EXPONENT`].
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`; `e^r` by its Taylor series to the seventh degree (remainder below `6e-9`),
/// and `2^n` by writing the exponent field. No branches: a loop over it becomes SIMD code.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 as a part exact in few bits, so that `n * LN2_HIGH` is exact, and the rest.
    const LN2_HIGH: f32 = 355.0 / 512.0;
    const LN2_LOW: f32 = (std::f64::consts::LN_2 - 355.0 / 512.0) as f32;
    let clamped = if x > SMALLEST_EXPONENT { x } else { SMALLEST_EXPONENT };
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for coefficient in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + coefficient;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    let value = series * f32::from_bits(exponent << 23);
    if x < SMALLEST_EXPONENT { 0.0 } else { value }
}

/// Replaces every logit by its weight `e^((logit - max) / temperature)`. `inverse_temperature` is positive and `max` is
/// finite and no smaller than any logit, so weights lie in `[0, 1]`.
pub(super) fn weigh(logits: &mut [f32], max: f32, inverse_temperature: f32) {
    for logit in logits {
        *logit = exp((*logit - max) * inverse_temperature);
    }
}

/// The sum of `values` in float64, in an order fixed by their number.
pub(super) fn sum(values: &[f32]) -> f64 {
    let mut lanes = [0.0_f64; LANES];
    let mut groups = values.chunks_exact(LANES);
    for group in &mut groups {
        for (lane, &value) in lanes.iter_mut().zip(group) {
            *lane += f64::from(value);
        }
    }
    for (lane, &value) in lanes.iter_mut().zip(groups.remainder()) {
        *lane += f64::from(value);
    }
    ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]))
}

/// The sum of `e^(row[i] - max)` in float64, without writing the terms out.
pub(super) fn sum_of_exponentials(row: &[f32], max: f32) -> f64 {
    let mut terms = [0.0_f32; BLOCK];
    let mut total = 0.0;
    for block in row.chunks(BLOCK) {
        let terms = &mut terms[..block.len()];
        for (term, &logit) in terms.iter_mut().zip(block) {
            *term = exp(logit - max);
        }
        total += sum(terms);
    }
    total
}
