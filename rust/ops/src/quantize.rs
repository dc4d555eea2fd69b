//! What quantized formats mean: the codes and scales every backend makes of the same numbers.
//!
//! ```text
//!   int8    a row of a weight or of activations      scale = max|x| / 127           x ~ scale * code, code -127..=127
//!   int4    a group of a weight's row, symmetric     scale = f16(extreme / -8)      x ~ scale * (code - 8), code 0..=15
//!           with zero points                         scale = f16((max - min) / 15)  x ~ scale * (code - zero)
//! ```
//!
//! Codes are the nearest, ties to even. The symmetric int4 scale is negative where the value furthest from zero is positive,
//! so that this value has a code of its own (-8), as in GGML's Q4_0. A row with a number that is not finite has a scale of
//! NaN: what comes of it is NaN, not a number that looks right.

use half::f16;

/// Rows and groups whose numbers are all below are zeros; above, `127 / max` is finite.
pub const TINY: f32 = 1e-30;

/// A row in eight bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Int8Row {
    /// What a code of one stands for.
    pub scale: f32,
    /// -127 to 127.
    pub codes: Vec<i8>,
}

/// A group in four bits.
#[derive(Debug, Clone, PartialEq)]
pub struct Int4Group {
    /// What a step between codes stands for.
    pub scale: f16,
    /// The code that stands for zero.
    pub zero: u8,
    /// 0 to 15.
    pub codes: Vec<u8>,
}

/// Quantizes a row to eight bits.
pub fn int8_row(values: &[f32]) -> Int8Row {
    let largest = values.iter().fold(0.0f32, |largest, value| largest.max(value.abs()));
    let finite = values.iter().all(|value| value.is_finite());
    let inverse = if largest < TINY { 0.0 } else { 127.0 / largest };
    Int8Row {
        scale: if finite { largest / 127.0 } else { f32::NAN },
        codes: values.iter().map(|value| (value * inverse).round_ties_even() as i8).collect(),
    }
}

/// Quantizes a group of a row to four bits.
pub fn int4_group(values: &[f32], symmetric: bool) -> Int4Group {
    let max = values.iter().fold(0.0f32, |max, value| max.max(*value));
    let min = values.iter().fold(0.0f32, |min, value| min.min(*value));
    let (step, zero_of) =
        if symmetric { (if -min > max { min } else { max } / -8.0, None) } else { ((max - min) / 15.0, Some(-min)) };
    let finite = values.iter().all(|value| value.is_finite());
    let scale = if finite { f16::from_f32(step) } else { f16::NAN };
    let inverse = if step.abs() < TINY || scale == f16::ZERO { 0.0 } else { 1.0 / scale.to_f32() };
    let code = |value: f32, zero: f32| ((value * inverse).round_ties_even() + zero).clamp(0.0, 15.0);
    let zero = zero_of.map_or(8.0, |value| code(value, 0.0));
    Int4Group { scale, zero: zero as u8, codes: values.iter().map(|value| code(*value, zero) as u8).collect() }
}

impl Int8Row {
    /// The numbers the codes stand for.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        self.codes.iter().map(|code| self.scale * f32::from(*code))
    }
}

impl Int4Group {
    /// The numbers the codes stand for.
    pub fn values(&self) -> impl Iterator<Item = f32> {
        self.codes.iter().map(|code| self.scale.to_f32() * (f32::from(*code) - f32::from(self.zero)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_bits_keep_the_largest_and_round_to_even() {
        let row = int8_row(&[0.0, 254.0, -254.0, 1.0, 3.0, -1.0]);
        assert_eq!(row, Int8Row { scale: 2.0, codes: vec![0, 127, -127, 0, 2, 0] });
        assert_eq!(int8_row(&[0.0; 3]), Int8Row { scale: 0.0, codes: vec![0; 3] });
        assert_eq!(int8_row(&[1e-35, -1e-38]).codes, [0, 0]);
        assert!(int8_row(&[1.0, f32::INFINITY]).values().all(f32::is_nan));
    }

    #[test]
    fn four_bits_keep_the_extreme_of_either_sign() {
        for sign in [1.0, -1.0] {
            let values = [8.0 * sign, -3.0 * sign, 0.0, 6.9 * sign];
            let group = int4_group(&values, true);
            assert_eq!(group.values().collect::<Vec<_>>(), [8.0 * sign, -3.0 * sign, 0.0, 7.0 * sign]);
        }
    }

    #[test]
    fn zero_points_cover_lopsided_groups_and_keep_zero() {
        let values = [0.0, 1.0, 7.0, 15.0];
        let group = int4_group(&values, false);
        assert_eq!((group.zero, group.values().collect::<Vec<_>>()), (0, values.to_vec()));
        let group = int4_group(&[-5.0, 0.0, 10.0], false);
        assert_eq!((group.zero, group.values().collect::<Vec<_>>()), (5, vec![-5.0, 0.0, 10.0]));
        assert!(int4_group(&[f32::NAN], false).values().all(f32::is_nan));
    }
}
