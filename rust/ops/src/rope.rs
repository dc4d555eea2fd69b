use crate::{Backend, Result, Tensor};

/// How a checkpoint stretches its rotary frequencies past the context it was first trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum RopeScaling {
    /// Positions divided by a factor (kaiokendev's linear scaling).
    Linear {
        /// The divisor.
        factor: f32,
    },
    /// Llama 3.1's rule: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of wavelengths past `original_max_position / low_freq_factor`.
        factor: f32,
        /// Wavelengths longer than the original context over this are divided in full.
        low_freq_factor: f32,
        /// Wavelengths shorter than the original context over this are kept.
        high_freq_factor: f32,
        /// The context the model was first trained on.
        original_max_position: usize,
    },
}

impl RopeScaling {
    fn scale(&self, inv_freq: f64) -> f64 {
        match *self {
            Self::Linear { factor } => inv_freq / f64::from(factor),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position } => {
                let (factor, low, high) = (f64::from(factor), f64::from(low_freq_factor), f64::from(high_freq_factor));
                let turns = original_max_position as f64 * inv_freq / std::f64::consts::TAU;
                let keep = ((turns - low) / (high - low)).clamp(0.0, 1.0);
                inv_freq * (keep + (1.0 - keep) / factor)
            }
        }
    }
}

/// Cosines and sines of every position's rotary angles (RoFormer, arXiv:2104.09864), on the device.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[num_positions, rotary_dim / 2]`.
    pub cos: Tensor,
    /// `[num_positions, rotary_dim / 2]`.
    pub sin: Tensor,
}

impl RopeTable {
    /// The table of `num_positions` positions for heads of which `rotary_dim` elements rotate.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(
        backend: &dyn Backend,
        num_positions: usize,
        rotary_dim: usize,
        theta: f64,
        scaling: Option<RopeScaling>,
    ) -> Result<Self> {
        let half = rotary_dim / 2;
        let frequencies: Vec<f32> = (0..half)
            .map(|i| {
                let inv_freq = theta.powf(-((2 * i) as f64) / rotary_dim as f64);
                scaling.map_or(inv_freq, |scaling| scaling.scale(inv_freq)) as f32
            })
            .collect();
        let mut cos = Vec::with_capacity(num_positions * half);
        let mut sin = Vec::with_capacity(num_positions * half);
        for position in 0..num_positions {
            for frequency in &frequencies {
                // The product is rounded to float32 first: that is the angle every reference implementation rotates by.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32);
                sin.push(angle.sin() as f32);
            }
        }
        Ok(Self { cos: backend.tensor(&cos, num_positions, half)?, sin: backend.tensor(&sin, num_positions, half)? })
    }

    /// Elements of a head that rotate.
    pub fn rotary_dim(&self) -> usize {
        2 * self.cos.cols()
    }

    /// Positions the table reaches.
    pub fn num_positions(&self) -> usize {
        self.cos.rows()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama3_keeps_short_and_divides_long_wavelengths() {
        let rule = RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position: 8192,
        };
        assert_eq!(rule.scale(1.0), 1.0);
        assert_eq!(rule.scale(1e-5), 1e-5 / 8.0);
        // Half way along the ramp: 2.5 turns in the original context.
        let middle = 2.5 * std::f64::consts::TAU / 8192.0;
        assert!((rule.scale(middle) / middle - (0.5 + 0.5 / 8.0)).abs() < 1e-12);
    }
}
