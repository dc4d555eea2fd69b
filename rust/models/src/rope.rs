//! Rotary positions: how fast each pair of a head turns, and how that is stretched past the first context.

use std::f64::consts::TAU;

/// Rotary position embedding of a layer's query and key heads (arXiv:2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that rotate.
    pub rotary_dim: usize,
    /// Whether a checkpoint's pairs are neighbours, `(2 i, 2 i + 1)`, and not `(i, i + rotary_dim / 2)`.
    pub interleaved: bool,
    /// How frequencies are stretched past the first context.
    pub scaling: Option<RopeScaling>,
}

/// How a checkpoint stretches its rotary frequencies past the context it was first trained on.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// All frequencies divided (kaiokendev's linear scaling).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// A larger base for longer contexts (bloc97's and emozilla's "dynamic NTK").
    ///
    /// transformers takes the base that fits the sequence's present length, so that a token's keys would depend on how
    /// much of its sequence was seen at once. Here it is the base that fits `max_model_len`, for all sequences: the same
    /// numbers for a model served at its original length, and for a sequence that fills `max_model_len`.
    Dynamic {
        /// What the contexts that the base fits are a multiple of.
        factor: f64,
        /// The context the model was first trained on.
        original_max_position: usize,
    },
    /// Llama 3.1's rule: long wavelengths divided by `factor`, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of wavelengths past `original_max_position / low_freq_factor`.
        factor: f64,
        /// Wavelengths longer than the original context over this are divided in full.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context over this are kept.
        high_freq_factor: f64,
        /// The context the model was first trained on.
        original_max_position: usize,
    },
    /// Some pairs alone turn, as fast as if all did (Gemma 4's "proportional" rule).
    Proportional {
        /// Divisor of the frequencies.
        factor: f64,
        /// The first pairs, which turn.
        num_pairs: usize,
    },
    /// YaRN (arXiv:2309.00071): as Llama 3's, with the ramp over pairs and not over frequencies, and longer keys and queries.
    Yarn {
        /// Divisor of slow pairs.
        factor: f64,
        /// Turns within the original context above which a pair is kept.
        beta_fast: f64,
        /// Turns within the original context below which a pair is divided in full.
        beta_slow: f64,
        /// Whether the ramp starts and ends at whole pairs.
        truncate: bool,
        /// The context the model was first trained on.
        original_max_position: usize,
        /// Factor on rotated queries and keys.
        attention_factor: f64,
    },
    /// LongRoPE (arXiv:2402.13753): a divisor for each pair, others for long contexts than for short.
    ///
    /// Which of the two is decided once, as vLLM does: the long ones where `max_model_len` exceeds the original context.
    LongRope {
        /// Divisors within the original context.
        short_factor: Vec<f64>,
        /// Divisors past it.
        long_factor: Vec<f64>,
        /// The context the model was first trained on.
        original_max_position: usize,
        /// Factor on rotated queries and keys.
        attention_factor: f64,
    },
}

impl RopeConfig {
    /// What each pair turns by from position to position, in a model served at `max_model_len`.
    pub fn frequencies(&self, max_model_len: usize) -> Vec<f32> {
        let pairs = 0..self.rotary_dim / 2;
        pairs.map(|pair| (self.frequency(pair, self.theta) * self.stretch(pair, max_model_len)) as f32).collect()
    }

    /// Factor on rotated queries and keys.
    pub fn attention_factor(&self) -> f32 {
        match self.scaling {
            Some(RopeScaling::Yarn { attention_factor, .. } | RopeScaling::LongRope { attention_factor, .. }) => {
                attention_factor as f32
            }
            _ => 1.0,
        }
    }

    /// The longest context of a model whose configuration says `max_position_embeddings`.
    pub(crate) fn longest_context(&self, max_position_embeddings: usize) -> usize {
        let (context, factor) = match self.scaling {
            Some(RopeScaling::Linear { factor } | RopeScaling::Dynamic { factor, .. }) => {
                (max_position_embeddings, factor)
            }
            Some(RopeScaling::Yarn { factor, original_max_position, .. }) => (original_max_position, factor),
            Some(RopeScaling::Llama3 { .. } | RopeScaling::Proportional { .. } | RopeScaling::LongRope { .. })
            | None => (max_position_embeddings, 1.0),
        };
        (context as f64 * factor) as usize
    }

    fn frequency(&self, pair: usize, theta: f64) -> f64 {
        theta.powf(-((2 * pair) as f64) / self.rotary_dim as f64)
    }

    /// What the scaling makes of a pair's frequency, as a factor.
    fn stretch(&self, pair: usize, max_model_len: usize) -> f64 {
        let frequency = self.frequency(pair, self.theta);
        match &self.scaling {
            None => 1.0,
            Some(RopeScaling::Linear { factor }) => 1.0 / factor,
            Some(RopeScaling::Proportional { factor, num_pairs }) => {
                if pair < *num_pairs {
                    1.0 / factor
                } else {
                    0.0
                }
            }
            Some(RopeScaling::Dynamic { factor, original_max_position }) => {
                let contexts = (max_model_len as f64 / *original_max_position as f64).max(1.0);
                let dim = self.rotary_dim as f64;
                let theta = self.theta * (factor * contexts - (factor - 1.0)).powf(dim / (dim - 2.0));
                self.frequency(pair, theta) / frequency
            }
            Some(RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_max_position }) => {
                let turns = *original_max_position as f64 * frequency / TAU;
                let keep = ((turns - low_freq_factor) / (high_freq_factor - low_freq_factor)).clamp(0.0, 1.0);
                keep + (1.0 - keep) / factor
            }
            Some(RopeScaling::Yarn { factor, beta_fast, beta_slow, truncate, original_max_position, .. }) => {
                let pair_that_turns = |turns: f64| {
                    let frequency = turns * TAU / *original_max_position as f64;
                    -frequency.ln() / self.theta.ln() * self.rotary_dim as f64 / 2.0
                };
                let (mut first, mut last) = (pair_that_turns(*beta_fast), pair_that_turns(*beta_slow));
                if *truncate {
                    (first, last) = (first.floor(), last.ceil());
                }
                (first, last) = (first.max(0.0), last.min((self.rotary_dim - 1) as f64));
                // A ramp of no length would divide by zero.
                let length = if first == last { 0.001 } else { last - first };
                let keep = 1.0 - ((pair as f64 - first) / length).clamp(0.0, 1.0);
                keep + (1.0 - keep) / factor
            }
            Some(RopeScaling::LongRope { short_factor, long_factor, original_max_position, .. }) => {
                1.0 / if max_model_len > *original_max_position { long_factor[pair] } else { short_factor[pair] }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(rotary_dim: usize, scaling: RopeScaling) -> RopeConfig {
        RopeConfig { theta: 10_000.0, rotary_dim, interleaved: false, scaling: Some(scaling) }
    }

    fn assert_near(got: &[f32], want: &[f32]) {
        assert_eq!(got.len(), want.len());
        assert!(got.iter().zip(want).all(|(got, want)| (got / want - 1.0).abs() < 1e-5), "{got:?}, {want:?}");
    }

    #[test]
    fn llama3_keeps_short_and_divides_long_wavelengths() {
        let (low_freq_factor, high_freq_factor) = (1.0, 4.0);
        let rule = RopeScaling::Llama3 { factor: 8.0, low_freq_factor, high_freq_factor, original_max_position: 8192 };
        let rope = RopeConfig { theta: 1e10, ..rope(16, rule) };
        assert_eq!((rope.stretch(0, 8192), rope.stretch(7, 8192)), (1.0, 0.125));
        // Pair 2 turns 4.12 times in the original context; with half of that, it lies on the ramp.
        let turns = 8192.0 * rope.frequency(2, rope.theta) / TAU;
        assert!((4.0..4.2).contains(&turns) && rope.stretch(2, 8192) == 1.0);
    }

    #[test]
    fn proportional_scaling_turns_the_first_pairs_alone() {
        let rope = rope(8, RopeScaling::Proportional { factor: 2.0, num_pairs: 2 });
        assert_near(&rope.frequencies(64)[..2], &[0.5, 0.05]);
        assert_eq!((&rope.frequencies(64)[2..], rope.longest_context(64)), (&[0.0, 0.0][..], 64));
    }

    #[test]
    fn dynamic_scaling_fits_the_served_length() {
        let rope = rope(8, RopeScaling::Dynamic { factor: 2.0, original_max_position: 64 });
        let plain = RopeConfig { scaling: None, ..rope.clone() };
        assert_eq!(rope.frequencies(64), plain.frequencies(64));
        assert_eq!(rope.frequencies(10), plain.frequencies(10));
        // What transformers has for a sequence of 128 tokens.
        let theta = 10_000.0 * 3f64.powf(8.0 / 6.0);
        assert_near(&rope.frequencies(128), &RopeConfig { theta, ..plain }.frequencies(1));
        assert_eq!(rope.longest_context(64), 128);
    }

    #[test]
    fn long_contexts_have_divisors_of_their_own() {
        let (short_factor, long_factor) = (vec![1.0, 2.0], vec![4.0, 8.0]);
        let rope = rope(
            4,
            RopeScaling::LongRope { short_factor, long_factor, original_max_position: 64, attention_factor: 1.5 },
        );
        assert_near(&rope.frequencies(64), &[1.0, 0.005]);
        assert_near(&rope.frequencies(65), &[0.25, 0.00125]);
        assert_eq!((rope.attention_factor(), rope.longest_context(128)), (1.5, 128));
    }
}
