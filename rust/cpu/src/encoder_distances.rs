//! Keys and queries of distances, packed as attention's kernels read them: those that the longest sequence of a batch needs.

use std::sync::Arc;

use rustllm_ops::{DisentangledParams, EncoderAttentionParams, Result};

use crate::attention::{Distances, QUERY_BUCKETS, products_len};
use crate::attention_tile::STEP;
use crate::buffer::Buffer;
use crate::simd::LANES;
use crate::step::Step;
use crate::view::View;

/// What distances stand for in all heads of a batch.
pub(crate) struct PackedDistances {
    keys: Option<Arc<Buffer>>,
    queries: Option<Arc<Buffer>>,
    /// The bucket of each distance between rows of the longest sequence, counted from the first that is packed.
    buckets: Vec<u32>,
    num_buckets: usize,
    head_dim: usize,
}

impl PackedDistances {
    /// Packs the buckets between `longest` rows. Shapes are checked, `longest` is not zero.
    pub(crate) fn new(
        step: &mut Step,
        (keys, queries): (Option<View>, Option<View>),
        distances: &DisentangledParams,
        params: &EncoderAttentionParams,
        longest: usize,
    ) -> Result<Self> {
        let farthest = longest as isize - 1;
        let mut buckets: Vec<u32> = (-farthest..=farthest).map(|d| distances.bucket(d) as u32).collect();
        let (first, last) = buckets.iter().fold((u32::MAX, 0), |(low, high), b| (low.min(*b), high.max(*b)));
        buckets.iter_mut().for_each(|bucket| *bucket -= first);
        let rows = (first as usize, (last - first) as usize + 1);
        let mut pack = |view: Option<View>, side_by_side, scale| {
            view.map(|view| pack(step, view, rows, (side_by_side, scale), params)).transpose()
        };
        let keys = pack(keys, LANES, 1.0)?;
        let queries = pack(queries, QUERY_BUCKETS, params.scale)?;
        Ok(Self { keys, queries, buckets, num_buckets: padded(rows.1), head_dim: params.head_dim })
    }

    /// Elements that a thread needs for products.
    pub(crate) fn products_len(&self) -> usize {
        products_len(self.num_buckets)
    }

    /// What distances stand for in head `head`, with a thread's memory for products.
    pub(crate) fn of_head(&self, head: usize, products: *mut f32) -> Distances {
        let start = head * self.num_buckets * self.head_dim;
        let of = |packed: &Option<Arc<Buffer>>| {
            packed.as_ref().map_or(std::ptr::null(), |buffer| buffer.as_ptr().wrapping_add(start).cast_const())
        };
        Distances {
            keys: of(&self.keys),
            queries: of(&self.queries),
            buckets: self.buckets[self.buckets.len() / 2..].as_ptr(),
            num_buckets: self.num_buckets,
            products,
        }
    }
}

/// Whole steps of buckets.
fn padded(num_buckets: usize) -> usize {
    num_buckets.next_multiple_of(STEP)
}

/// Rows `first .. first + count` of `from` times `scale`, head after head; of every `side_by_side` rows the elements `d` side by
/// side. What fills up the last step is zero.
fn pack(
    step: &mut Step,
    from: View,
    (first, count): (usize, usize),
    (side_by_side, scale): (usize, f32),
    params: &EncoderAttentionParams,
) -> Result<Arc<Buffer>> {
    let (head_dim, groups) = (params.head_dim, padded(count) / side_by_side);
    let group_len = side_by_side * head_dim;
    let buffer = step.buffer(&[params.num_heads, groups, group_len])?;
    step.for_rows(params.num_heads * groups, group_len, |task| {
        let (head, group) = (task / groups, task % groups);
        // SAFETY: the buffer has every group of every head, each is one task's.
        let to = unsafe { std::slice::from_raw_parts_mut(buffer.as_ptr().add(task * group_len), group_len) };
        for lane in 0..side_by_side {
            let row = group * side_by_side + lane;
            let to = to.iter_mut().skip(lane).step_by(side_by_side);
            if row < count {
                // SAFETY: the row exists, and nothing writes it.
                let from = unsafe { from.row_slice(first + row) };
                to.zip(&from[head * head_dim..]).for_each(|(to, from)| *to = from * scale);
            } else {
                to.for_each(|to| *to = 0.0);
            }
        }
    })?;
    Ok(buffer)
}
