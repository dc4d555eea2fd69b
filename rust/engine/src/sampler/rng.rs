//! The counter-based random number generator of sampling: Philox4x32-10 (Salmon, Moraes, Dror and Shaw,
//! "Parallel random numbers: as easy as 1, 2, 3", SC 2011).
//!
//! A number is a pure function of (seed, position). There is no state to advance, so a sequence draws the same numbers
//! alone or in any batch, with or without preemption, on any thread.

const MULTIPLIERS: [u32; 2] = [0xD251_1F53, 0xCD9E_8D57];
const KEY_STEPS: [u32; 2] = [0x9E37_79B9, 0xBB67_AE85];
const ROUNDS: usize = 10;

/// The four words Philox4x32-10 gives for `counter` under `key`.
pub(super) fn philox4x32_10(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for _ in 0..ROUNDS {
        let left = u64::from(MULTIPLIERS[0]) * u64::from(counter[0]);
        let right = u64::from(MULTIPLIERS[1]) * u64::from(counter[2]);
        counter = [high(right) ^ counter[1] ^ key[0], right as u32, high(left) ^ counter[3] ^ key[1], left as u32];
        key = [key[0].wrapping_add(KEY_STEPS[0]), key[1].wrapping_add(KEY_STEPS[1])];
    }
    counter
}

/// A number uniform in `[0, 1)` with 53 random bits, for the token at `position` of the sequence seeded with `seed`.
pub(super) fn uniform(seed: u64, position: u64) -> f64 {
    let words = philox4x32_10([position as u32, high(position), 0, 0], [seed as u32, high(seed)]);
    let bits = u64::from(words[0]) | u64::from(words[1]) << 32;
    (bits >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
}

fn high(wide: u64) -> u32 {
    (wide >> 32) as u32
}
