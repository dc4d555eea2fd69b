//! MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 numbers of four bits with a common power of two.
//!
//! ```text
//!   blocks  [.., cols / 32, 16]   two numbers a byte, the first in the low half: sign, two bits of exponent, one of mantissa
//!   scales  [.., cols / 32]       an exponent a block, plus 127; 255 is not a number
//! ```

use super::pieces::fill_pieces;

/// Numbers of a block.
pub(super) const BLOCK: usize = 32;

/// What four bits stand for.
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The numbers that `blocks` and `scales` stand for, in bfloat16, which has each of them exactly.
pub(super) fn dequantize(blocks: &[u8], scales: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 2 * BLOCK * scales.len()];
    fill_pieces(&mut bytes, 2 * BLOCK, |number, to| {
        let scale = exponent(scales[number]);
        let values = VALUES.map(|value| bfloat16(value * scale));
        let block = &blocks[number * BLOCK / 2..(number + 1) * BLOCK / 2];
        for (to, pair) in to.chunks_exact_mut(4).zip(block) {
            to[..2].copy_from_slice(&values[usize::from(pair & 15)]);
            to[2..].copy_from_slice(&values[usize::from(pair >> 4)]);
        }
    });
    bytes
}

/// `2^(scale - 127)`.
fn exponent(scale: u8) -> f32 {
    match scale {
        // Below the least normal number.
        0 => f32::MIN_POSITIVE / 2.0,
        255 => f32::NAN,
        _ => f32::from_bits(u32::from(scale) << 23),
    }
}

/// The upper half of a number whose lower half is zero.
fn bfloat16(value: f32) -> [u8; 2] {
    let [_, _, low, high] = value.to_le_bytes();
    [low, high]
}

#[cfg(test)]
mod tests {
    use rustllm_ops::DType;

    use super::*;

    #[test]
    fn low_halves_come_first_and_blocks_have_their_own_scales() {
        let blocks: Vec<u8> = (0..32).map(|i| if i < 16 { 0x72 } else { 0xf1 }).collect();
        let values = DType::BF16.decode(&dequantize(&blocks, &[127, 129]));
        assert_eq!(values.len(), 64);
        assert_eq!((&values[..3], &values[32..35]), (&[1.0, 6.0, 1.0][..], &[2.0, -24.0, 2.0][..]));
    }

    #[test]
    fn scales_reach_from_the_least_to_the_greatest() {
        let blocks: Vec<u8> = (0..16).map(|pair| pair | 0xf0).collect();
        for scale in 0..254u8 {
            let values = DType::BF16.decode(&dequantize(&blocks, &[scale]));
            for (got, want) in values.iter().step_by(2).zip(VALUES) {
                // Past what float32 reaches, as in the greatest block, is infinite.
                let exact = f64::from(want) * 2f64.powi(i32::from(scale) - 127);
                assert!(f64::from(*got) == exact || exact.abs() > f64::from(f32::MAX), "{scale}: {got}, {exact}");
            }
        }
        assert!(DType::BF16.decode(&dequantize(&blocks, &[255])).iter().all(|value| value.is_nan()));
    }
}
