use crate::{Backend, Result, Tensor};

/// Cosines and sines of every position's rotary angles (RoFormer, arXiv:2104.09864), on the device.
#[derive(Debug, Clone)]
pub struct RopeTable {
    /// `[num_positions, rotary_dim / 2]`.
    pub cos: Tensor,
    /// `[num_positions, rotary_dim / 2]`.
    pub sin: Tensor,
}

impl RopeTable {
    /// The table of `num_positions` positions; pair `i` of a head turns by `frequencies[i]` from position to position, and is
    /// stretched by `factor`.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn new(backend: &dyn Backend, num_positions: usize, frequencies: &[f32], factor: f32) -> Result<Self> {
        let pairs = frequencies.len();
        let mut cos = Vec::with_capacity(num_positions * pairs);
        let mut sin = Vec::with_capacity(num_positions * pairs);
        for position in 0..num_positions {
            for frequency in frequencies {
                // The product is rounded to float32 first: that is the angle every reference implementation rotates by.
                let angle = f64::from(position as f32 * frequency);
                cos.push(angle.cos() as f32 * factor);
                sin.push(angle.sin() as f32 * factor);
            }
        }
        Ok(Self { cos: backend.tensor(&cos, num_positions, pairs)?, sin: backend.tensor(&sin, num_positions, pairs)? })
    }

    /// The table of RoFormer's own frequencies: `theta ^ (-2 i / rotary_dim)` for pair `i`.
    ///
    /// # Errors
    /// No memory on the device.
    pub fn unscaled(backend: &dyn Backend, num_positions: usize, rotary_dim: usize, theta: f64) -> Result<Self> {
        let frequency = |i: usize| theta.powf(-((2 * i) as f64) / rotary_dim as f64) as f32;
        Self::new(backend, num_positions, &(0..rotary_dim / 2).map(frequency).collect::<Vec<_>>(), 1.0)
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
