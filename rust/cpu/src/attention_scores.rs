//! What some models do to attention's scores: cap them, lower them with distance, add a sink to the softmax's sum.
#![allow(unsafe_op_in_unsafe_fn, reason = "kernels: pointers hold a value for every head, the CPU has the features")]

use crate::math;
use crate::simd::{LANE_INDICES, LANES, Simd};

/// The rules of a KV head's query heads, as [`AttentionParams`](rustllm_ops::AttentionParams) defines them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ScoreRules {
    /// What scores are kept below.
    pub(crate) soft_cap: Option<f32>,
    /// The heads' ALiBi slopes, or null.
    pub(crate) alibi_slopes: *const f32,
    /// The heads' sinks, or null.
    pub(crate) sinks: *const f32,
}

// SAFETY: pointers to what no op writes; who dereferences them is the kernels' business.
unsafe impl Send for ScoreRules {}
// SAFETY: as above.
unsafe impl Sync for ScoreRules {}

impl ScoreRules {
    /// Scores are products and nothing else.
    pub(crate) const NONE: Self = Self { soft_cap: None, alibi_slopes: std::ptr::null(), sinks: std::ptr::null() };

    /// Those of the query heads from `head` on.
    pub(crate) fn of_heads_from(self, head: usize) -> Self {
        let from = |values: *const f32| if values.is_null() { values } else { values.wrapping_add(head) };
        Self { alibi_slopes: from(self.alibi_slopes), sinks: from(self.sinks), ..self }
    }

    /// Whether a score is anything else than a product.
    pub(crate) fn change_scores(&self) -> bool {
        self.soft_cap.is_some() || !self.alibi_slopes.is_null()
    }

    /// The scores of sixteen positions, the first of them `distance` behind the row's own (below zero for those before it).
    #[inline(always)]
    pub(crate) unsafe fn apply<S: Simd>(&self, head: usize, distance: f32, mut score: S::V) -> S::V {
        if let Some(cap) = self.soft_cap {
            score = math::soft_cap::<S>(score, cap);
        }
        if !self.alibi_slopes.is_null() {
            let distance = S::add(S::splat(distance), S::load(LANE_INDICES.as_ptr()));
            score = S::mul_add(S::splat(*self.alibi_slopes.add(head)), distance, score);
        }
        score
    }

    /// What the sink adds to a sum of weights relative to a score of `max`.
    #[inline(always)]
    pub(crate) unsafe fn sink<S: Simd>(&self, head: usize, max: f32) -> f32 {
        if self.sinks.is_null() {
            return 0.0;
        }
        let mut weight = [0.0; LANES];
        S::store(weight.as_mut_ptr(), math::exp::<S>(S::splat(*self.sinks.add(head) - max)));
        weight[0]
    }
}
