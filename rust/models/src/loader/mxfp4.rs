//! MXFP4 (OCP Microscaling Formats 1.0): blocks of 32 numbers of four bits with a common power of two.
//!
//! ```text
//!   blocks  [.., cols / 32, 16]   two numbers a byte, the first in the low half: sign, two bits of exponent, one of mantissa
//!   scales  [.., cols / 32]       an exponent a block, plus 127; 255 is not a number
//! ```

/// Numbers of a block.
pub(super) const BLOCK: usize = 32;

/// What four bits stand for.
const VALUES: [f32; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

/// The numbers that `blocks` and `scales` stand for.
pub(super) fn dequantize<'a>(blocks: &'a [u8], scales: &'a [u8]) -> impl Iterator<Item = f32> + 'a {
    blocks.chunks_exact(BLOCK / 2).zip(scales).flat_map(|(block, scale)| {
        let scale = exponent(*scale);
        block.iter().flat_map(move |byte| [byte & 15, byte >> 4].map(|code| VALUES[usize::from(code)] * scale))
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_halves_come_first_and_blocks_have_their_own_scales() {
        let blocks: Vec<u8> = (0..32).map(|i| if i < 16 { 0x72 } else { 0xf1 }).collect();
        let values: Vec<f32> = dequantize(&blocks, &[127, 129]).collect();
        assert_eq!(values.len(), 64);
        assert_eq!((values[..3].to_vec(), values[32..35].to_vec()), (vec![1.0, 6.0, 1.0], vec![2.0, -24.0, 2.0]));
    }

    #[test]
    fn scales_reach_from_the_least_to_the_greatest() {
        for scale in 0..255u8 {
            assert_eq!(f64::from(exponent(scale)), 2f64.powi(i32::from(scale) - 127));
        }
        assert!(exponent(255).is_nan());
    }
}
