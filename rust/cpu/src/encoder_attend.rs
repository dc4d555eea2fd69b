//! Attention among the rows of each sequence: keys and values are laid out as the paged cache has them, one sequence after
//! another, and then attended to by the same kernels.
//!
//! ```text
//!   rows      a a a a a a a a a a a a a a a a a a | b b b | ...       sequences of 18 and 3 rows
//!   blocks   [ a: 16 positions ][ a: 2, 14 empty ][ b: 3, 13 empty ]  all KV heads of 16 positions of one sequence
//!   block    [ head 0: keys [head_dim][16], values [16][head_dim'] ][ head 1 ... ]
//!   task      up to 64 queries of one sequence x one KV head, over all positions they see
//! ```
//!
//! A row meets the positions of its sequence in order, in chunks at fixed positions: its bits do not depend on the batch.

use std::cmp::Reverse;
use std::sync::Arc;

use rustllm_ops::{EncoderAttentionParams, KvCacheDType, Result};

use crate::attend::{TASK_QUERIES, WORTH_SHARING};
use crate::attention::{AttentionTask, CHUNK, MAX_ROWS, scratch_len};
use crate::attention_scores::ScoreRules;
use crate::buffer::Buffer;
use crate::encoder_distances::PackedDistances;
use crate::kernels::Kernels;
use crate::kv_cache::padded_head_dim;
use crate::simd::LANES;
use crate::step::Step;
use crate::view::View;

/// Rows of the op's operands, of float32. Shapes are checked.
#[derive(Clone, Copy)]
pub(crate) struct Operands {
    pub(crate) q: View,
    pub(crate) k: View,
    pub(crate) v: View,
    /// A row of biases by distance for each query head.
    pub(crate) bias: Option<View>,
    /// Keys and queries of distances.
    pub(crate) distances: (Option<View>, Option<View>),
    pub(crate) out: View,
}

/// One sequence: its rows in the batch and the blocks that hold its keys and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Span {
    row: usize,
    rows: usize,
    block: usize,
}

/// Queries `first .. first + rows` of a sequence.
#[derive(Debug, Clone, Copy)]
struct Item {
    span: Span,
    first: usize,
    rows: usize,
}

fn spans(starts: &[u32]) -> Vec<Span> {
    let mut block = 0;
    let span = |bounds: &[u32]| {
        let (row, rows) = (bounds[0] as usize, (bounds[1] - bounds[0]) as usize);
        let span = Span { row, rows, block };
        block += rows.div_ceil(LANES);
        span
    };
    starts.windows(2).map(span).filter(|span| span.rows > 0).collect()
}

/// The sequences' queries, at most `task_rows` together, those with the most to do first.
fn items(spans: &[Span], task_rows: usize) -> Vec<Item> {
    let of = |span: &Span| {
        let span = *span;
        let rows = move |first: usize| task_rows.min(span.rows - first);
        (0..span.rows).step_by(task_rows).map(move |first| Item { span, first, rows: rows(first) })
    };
    let mut items: Vec<Item> = spans.iter().flat_map(of).collect();
    items.sort_by_key(|item| Reverse(item.rows * item.span.rows));
    items
}

/// Keys and values of all sequences, packed.
struct Packed {
    buffer: Arc<Buffer>,
    heads: usize,
    head_dim: usize,
}

impl Packed {
    /// Elements of a head's keys in a block.
    fn key_len(&self) -> usize {
        self.head_dim * LANES
    }

    /// Elements of a block.
    fn block_len(&self) -> usize {
        self.heads * (self.key_len() + padded_head_dim(self.head_dim) * LANES)
    }

    /// A head's keys in a block; its values follow.
    fn keys(&self, block: usize, head: usize) -> *mut f32 {
        let head_len = self.block_len() / self.heads;
        self.buffer.as_ptr().wrapping_add(block * self.block_len() + head * head_len)
    }

    /// Fills block `index` of a sequence. Positions past its end are zero.
    ///
    /// # Safety
    /// The block is in the buffer and this caller's alone, the rows are in the operands.
    unsafe fn fill(&self, k: View, v: View, span: Span, index: usize) {
        let width = padded_head_dim(self.head_dim);
        let first = index * LANES;
        for head in 0..self.heads {
            let columns = head * self.head_dim..(head + 1) * self.head_dim;
            let keys = self.keys(span.block + index, head);
            let values = keys.wrapping_add(self.key_len());
            for lane in 0..LANES {
                // SAFETY: lanes and columns are inside the head's part of the block; rows exist.
                unsafe {
                    let to = std::slice::from_raw_parts_mut(values.add(lane * width), width);
                    if first + lane < span.rows {
                        let row = span.row + first + lane;
                        let key = &k.row_slice(row)[columns.clone()];
                        key.iter().enumerate().for_each(|(d, element)| keys.add(d * LANES + lane).write(*element));
                        to[..self.head_dim].copy_from_slice(&v.row_slice(row)[columns.clone()]);
                        to[self.head_dim..].fill(0.0);
                    } else {
                        (0..self.head_dim).for_each(|d| keys.add(d * LANES + lane).write(0.0));
                        to.fill(0.0);
                    }
                }
            }
        }
    }
}

fn pack(step: &mut Step, k: View, v: View, spans: &[Span], params: &EncoderAttentionParams) -> Result<Packed> {
    let blocks: Vec<(Span, usize)> =
        spans.iter().flat_map(|span| (0..span.rows.div_ceil(LANES)).map(|index| (*span, index))).collect();
    let (heads, head_dim) = (params.num_kv_heads, params.head_dim);
    let len = blocks.len() * heads * LANES * (head_dim + padded_head_dim(head_dim));
    let packed = Packed { buffer: step.buffer(&[len])?, heads, head_dim };
    step.for_rows(blocks.len(), packed.block_len(), |task| {
        let (span, index) = blocks[task];
        // SAFETY: the buffer has every block, each is one task's, and spans are rows of the operands.
        unsafe { packed.fill(k, v, span, index) };
    })?;
    Ok(packed)
}

/// Every head's bias for all distances between `longest` rows, the columns for no distance `center` elements from each
/// head's start, and what lies past the last row as if it were one: kernels read whole vectors.
struct Bias {
    values: Vec<f32>,
    stride: usize,
    center: usize,
}

fn bias(view: View, longest: usize) -> Bias {
    let (center, reach) = (longest, view.cols / 2);
    let stride = center + longest.next_multiple_of(LANES) + LANES;
    let column = |at: usize| (reach + at).saturating_sub(center).min(2 * reach);
    // SAFETY: the rows exist and nothing writes a bias.
    let row = |head: usize| unsafe { view.row_slice(head) };
    let values = (0..view.rows).flat_map(|head| (0..stride).map(move |at| row(head)[column(at)]));
    Bias { values: values.collect(), stride, center }
}

/// `out = encoder_attention(q, k, v)`.
pub(crate) fn attend(
    step: &mut Step,
    kernels: &Kernels,
    operands: Operands,
    starts: &[u32],
    params: &EncoderAttentionParams,
) -> Result<()> {
    let (head_dim, group) = (params.head_dim, params.num_heads / params.num_kv_heads);
    if group == 0 || head_dim == 0 {
        return Ok(());
    }
    let spans = spans(starts);
    let Some(longest) = spans.iter().map(|span| span.rows).max() else { return Ok(()) };
    let packed = pack(step, operands.k, operands.v, &spans, params)?;
    let task_rows = (TASK_QUERIES / group).clamp(1, MAX_ROWS);
    let items = items(&spans, task_rows);
    let bias = operands.bias.map(|view| bias(view, longest));
    let positions: Vec<u32> = (0..longest as u32).collect();
    let distances = params.disentangled.as_ref();
    let distances = distances
        .map(|distances| PackedDistances::new(step, operands.distances, distances, params, longest))
        .transpose()?;
    let task_len = scratch_len(task_rows * group, head_dim);
    let scratch = step.scratch(task_len + distances.as_ref().map_or(0, PackedDistances::products_len))?;
    let run = kernels.attention(KvCacheDType::F32);
    let one = |task: usize, worker: usize| {
        let (item, head) = (items[task / params.num_kv_heads], task % params.num_kv_heads);
        let Item { span, first, rows } = item;
        let keys = packed.keys(span.block, head);
        let column = head * group * head_dim;
        let bias_of = |bias: &Bias| bias.values[head * group * bias.stride + bias.center..].as_ptr();
        let task = AttentionTask {
            q: operands.q.row(span.row + first).wrapping_add(column),
            q_stride: operands.q.stride,
            out: operands.out.row(span.row + first).wrapping_add(column),
            out_stride: operands.out.stride,
            rows,
            positions: positions[first..].as_ptr(),
            group,
            head_dim,
            scale: params.scale,
            window: params.window.map_or(usize::MAX, |window| window + 1),
            ahead: params.window.unwrap_or(usize::MAX),
            positions_end: span.rows,
            rules: ScoreRules::NONE,
            bias: bias.as_ref().map_or(std::ptr::null(), bias_of),
            bias_stride: bias.as_ref().map_or(0, |bias| bias.stride),
            distances: distances
                .as_ref()
                .map(|distances| distances.of_head(head, scratch.of(worker).wrapping_add(task_len))),
            keys: keys.cast(),
            values: keys.wrapping_add(packed.key_len()).cast(),
            block_bytes: packed.block_len() * size_of::<f32>(),
            blocks: positions.as_ptr(), // block `i` of a sequence is its `i`th
            block_size: LANES,
            first_chunk: params.window.map_or(0, |window| first.saturating_sub(window) / CHUNK),
            end_chunk: last_seen(item, params.window).div_ceil(CHUNK),
            tiles: kernels.attention_tiles(KvCacheDType::F32),
            partials: std::ptr::null_mut(),
            scratch: scratch.of(worker),
        };
        // SAFETY: rows, heads and blocks were checked or made above; the task's rows of `out` are its alone, the scratch
        // its worker's; the machine runs the kernels.
        unsafe { run(&task) };
    };
    let work: usize = items.iter().map(|item| item.rows * item.span.rows).sum::<usize>() * params.num_heads * head_dim;
    let num_tasks = items.len() * params.num_kv_heads;
    if step.pool.num_threads() == 1 || work < WORTH_SHARING {
        return step.run(1, |worker, _| (0..num_tasks).for_each(|task| one(task, worker)));
    }
    step.run(num_tasks, |worker, task| one(task, worker))
}

/// The position after the last that any of the item's rows sees.
fn last_seen(item: Item, window: Option<usize>) -> usize {
    let last = item.first + item.rows;
    window.map_or(item.span.rows, |window| last.saturating_add(window).min(item.span.rows))
}
