//! An attention op: which rows, heads and positions each thread computes.
//!
//! ```text
//!   item    up to 64 queries of one sequence (rows x query heads of a KV head)        prefill: many items
//!   task    item x KV head                                                            decode: an item a sequence
//!        or item x KV head x some chunks of positions, where an item is too large a share of the op
//! ```
//!
//! How items are cut into tasks decides who computes, never what: chunks lie at fixed positions and are combined in order.

use std::cmp::Reverse;
use std::sync::Arc;

use rustllm_ops::{AttentionMetadata, AttentionParams, GroupMetadata, Result};

use crate::attention::{AttentionTask, CHUNK, MAX_ROWS, Tiles, partial_len, scratch_len};
use crate::attention_scores::ScoreRules;
use crate::buffer::Buffer;
use crate::kernels::Kernels;
use crate::kv_cache::KvBlocks;
use crate::step::{Scratch, Step};
use crate::view::View;

/// Queries (rows x query heads of a KV head) that share each read of keys and values.
pub(crate) const TASK_QUERIES: usize = 64;

/// Tasks a thread should find, so that the threads end together.
const TASKS_PER_THREAD: usize = 4;

/// Multiplications below which one thread is enough.
pub(crate) const WORTH_SHARING: usize = 32 * 1024;

/// Rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Item {
    seq: usize,
    row: usize,
    rows: usize,
    /// Chunks of positions that the rows see.
    first_chunk: usize,
    end_chunk: usize,
    /// Rows x positions.
    work: usize,
    /// Where the partial results of its chunks are, head after head, if the item is split.
    partials: Option<usize>,
}

/// An item's KV head, or some of its chunks.
#[derive(Debug, Clone, Copy)]
struct Share {
    item: usize,
    head: usize,
    first_chunk: usize,
    end_chunk: usize,
    work: usize,
}

/// What an op is cut into. Kept from op to op for its memory.
#[derive(Debug, Default)]
pub(crate) struct Work {
    items: Vec<Item>,
    shares: Vec<Share>,
    /// Elements of all partial results.
    partials: usize,
}

impl Work {
    /// Cuts the batch into items of at most `task_rows` rows.
    fn cut(&mut self, metadata: &AttentionMetadata, params: &AttentionParams, task_rows: usize) {
        self.items.clear();
        let (starts, positions) = (metadata.query_start_loc.as_slice(), metadata.positions.as_slice());
        let window = params.sliding_window.unwrap_or(usize::MAX);
        for seq in 0..metadata.num_seqs() {
            let (start, end) = (starts[seq] as usize, starts[seq + 1] as usize);
            for row in (start..end).step_by(task_rows) {
                let rows = task_rows.min(end - row);
                let own = positions[row..row + rows].iter().map(|position| *position as usize + 1);
                let (lowest, highest) = (own.clone().min().unwrap_or(1), own.max().unwrap_or(1));
                let first = lowest.saturating_sub(window);
                let (first_chunk, end_chunk) = (first / CHUNK, highest.div_ceil(CHUNK));
                let work = rows * (highest - first);
                self.items.push(Item { seq, row, rows, first_chunk, end_chunk, work, partials: None });
            }
        }
    }

    /// Deals the items' heads, and chunks where an item is more than `most` work, into shares, the largest first.
    fn share(&mut self, params: &AttentionParams, most: usize) {
        self.shares.clear();
        self.partials = 0;
        let (heads, group) = (params.num_kv_heads, params.num_heads / params.num_kv_heads);
        for (index, item) in self.items.iter_mut().enumerate() {
            let chunks = item.end_chunk - item.first_chunk;
            let parts = item.work.div_ceil(most.max(1)).clamp(1, chunks);
            if parts > 1 {
                item.partials = Some(self.partials);
                self.partials += heads * chunks * partial_len(item.rows * group, params.head_dim);
            }
            for head in 0..heads {
                let bound = |part: usize| item.first_chunk + part * chunks / parts;
                self.shares.extend((0..parts).map(|part| Share {
                    item: index,
                    head,
                    first_chunk: bound(part),
                    end_chunk: bound(part + 1),
                    work: item.work * (bound(part + 1) - bound(part)) / chunks,
                }));
            }
        }
        self.shares.sort_unstable_by_key(|share| (Reverse(share.work), share.item, share.head, share.first_chunk));
    }
}

/// An op's operands. Shapes are checked.
#[derive(Clone, Copy)]
struct Op<'a> {
    q: View,
    out: View,
    cache: &'a KvBlocks,
    metadata: &'a AttentionMetadata,
    group: &'a GroupMetadata,
    params: &'a AttentionParams,
    rules: ScoreRules,
    tiles: Tiles,
    partials: Option<&'a Arc<Buffer>>,
    scratch: &'a Scratch,
}

impl Op<'_> {
    /// Chunks `first_chunk .. end_chunk` of an item's head, on thread `worker`.
    fn task(&self, item: &Item, head: usize, (first_chunk, end_chunk): (usize, usize), worker: usize) -> AttentionTask {
        let (metadata, params, cache) = (self.metadata, self.params, self.cache);
        let (head_dim, group) = (params.head_dim, params.num_heads / params.num_kv_heads);
        let partials = self.partials.zip(item.partials).map(|(buffer, start)| {
            let before = head * (item.end_chunk - item.first_chunk) + (first_chunk - item.first_chunk);
            buffer.as_ptr().wrapping_add(start + before * partial_len(item.rows * group, head_dim))
        });
        AttentionTask {
            q: self.q.row(item.row).wrapping_add(head * group * head_dim),
            q_stride: self.q.stride,
            out: self.out.row(item.row).wrapping_add(head * group * head_dim),
            out_stride: self.out.stride,
            rows: item.rows,
            positions: metadata.positions.as_slice()[item.row..].as_ptr(),
            group,
            head_dim,
            scale: params.scale,
            window: params.sliding_window.unwrap_or(usize::MAX),
            ahead: 0,
            positions_end: usize::MAX,
            bias: std::ptr::null(),
            bias_stride: 0,
            distances: None,
            rules: self.rules.of_heads_from(head * group),
            keys: cache.keys(head),
            values: cache.values(head),
            block_bytes: cache.block_bytes(),
            blocks: self.group.block_table.as_slice()[item.seq * self.group.max_blocks_per_seq..].as_ptr(),
            block_size: cache.spec().block_size,
            first_chunk,
            end_chunk,
            partials: partials.unwrap_or(std::ptr::null_mut()),
            tiles: self.tiles,
            scratch: self.scratch.of(worker),
        }
    }
}

/// `out = attention(q)`. Shapes are checked.
pub(crate) fn attend(
    step: &mut Step,
    kernels: &Kernels,
    q: View,
    cache: &KvBlocks,
    (metadata, table): (&AttentionMetadata, &GroupMetadata),
    (params, rules): (&AttentionParams, ScoreRules),
    out: View,
) -> Result<()> {
    let (head_dim, group, heads) = (params.head_dim, params.num_heads / params.num_kv_heads, params.num_kv_heads);
    if group == 0 || head_dim == 0 {
        return Ok(());
    }
    let task_rows = (TASK_QUERIES / group).clamp(1, MAX_ROWS);
    let mut work = std::mem::take(&mut step.work);
    work.cut(metadata, params, task_rows);
    let total = heads * work.items.iter().map(|item| item.work).sum::<usize>();
    let alone = step.pool.num_threads() == 1 || total * group * head_dim < WORTH_SHARING;
    work.share(params, if alone { usize::MAX } else { total / (TASKS_PER_THREAD * step.pool.num_threads()) });
    let scratch = step.scratch(scratch_len(task_rows * group, head_dim))?;
    let partials = (work.partials > 0).then(|| step.buffer(&[work.partials])).transpose()?;
    let tiles = kernels.attention_tiles(cache.spec().dtype);
    let partials = partials.as_ref();
    let op = Op { q, out, cache, metadata, group: table, params, rules, tiles, partials, scratch: &scratch };

    let kernel = kernels.attention(cache.spec().dtype);
    let one = |share: &Share, worker: usize| {
        let task = op.task(&work.items[share.item], share.head, (share.first_chunk, share.end_chunk), worker);
        // SAFETY: the operands were checked to fit together, so that positions that are seen lie in blocks that exist; the rows and
        // heads of `out`, or the partial results, are this share's alone; the scratch is the worker's; the machine
        // runs the kernels.
        unsafe { kernel(&task) };
    };
    if alone {
        step.run(1, |worker, _| work.shares.iter().for_each(|share| one(share, worker)))?;
    } else {
        step.run(work.shares.len(), |worker, index| one(&work.shares[index], worker))?;
    }
    if partials.is_some() {
        step.run(work.items.len(), |worker, index| {
            let item = &work.items[index];
            for head in (0..heads).filter(|_| item.partials.is_some()) {
                let task = op.task(item, head, (item.first_chunk, item.end_chunk), worker);
                // SAFETY: as above; all partial results are there, and the item is this task's alone.
                unsafe { (kernels.combine_attention)(&task) };
            }
        })?;
    }
    step.work = work;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustllm_ops::Indices;

    fn params(num_kv_heads: usize, sliding_window: Option<usize>) -> AttentionParams {
        AttentionParams { sliding_window, ..AttentionParams::new(2 * num_kv_heads, num_kv_heads, 16) }
    }

    /// Sequences of `lens` tokens whose last `rows` are computed.
    fn metadata(lens: &[usize], rows: &[usize]) -> AttentionMetadata {
        let mut starts = vec![0];
        starts.extend(rows.iter().scan(0, |sum, rows| {
            *sum += *rows as u32;
            Some(*sum)
        }));
        let positions = lens.iter().zip(rows).flat_map(|(len, rows)| (len - rows) as u32..*len as u32).collect();
        AttentionMetadata {
            positions: Indices::host(positions),
            query_start_loc: Indices::host(starts),
            seq_lens: Indices::host(lens.iter().map(|len| *len as u32).collect()),
            groups: vec![],
        }
    }

    /// Every (row, head, chunk) of the shares.
    fn computed(work: &Work) -> Vec<(usize, usize, usize)> {
        let shares = work.shares.iter().flat_map(|share| {
            let item = work.items[share.item];
            (share.first_chunk..share.end_chunk)
                .flat_map(move |chunk| (item.row..item.row + item.rows).map(move |row| (row, share.head, chunk)))
        });
        let mut all: Vec<_> = shares.collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn items_cover_every_row_once() {
        let mut work = Work::default();
        work.cut(&metadata(&[7, 0, 8, 11], &[7, 0, 1, 3]), &params(1, None), 3);
        let rows = work.items.iter().flat_map(|item| item.row..item.row + item.rows);
        assert!(rows.eq(0..11));
        let seqs: Vec<_> = work.items.iter().map(|item| (item.seq, item.rows)).collect();
        assert_eq!(seqs, [(0, 3), (0, 3), (0, 1), (2, 1), (3, 3)]);
    }

    #[test]
    fn shares_cover_every_chunk_of_every_head_once() {
        let metadata = metadata(&[10 * CHUNK + 1, 3, CHUNK], &[2, 3, 1]);
        let mut want: Vec<_> = (0..2).flat_map(|head| (0..11).map(move |chunk| (0, head, chunk))).collect();
        want.extend(want.clone().iter().map(|(_, head, chunk)| (1, *head, *chunk)));
        want.extend((2..6).flat_map(|row| (0..2).map(move |head| (row, head, 0))));
        want.sort_unstable();
        for most in [1, 500, 2 * CHUNK, usize::MAX] {
            let mut work = Work::default();
            work.cut(&metadata, &params(2, None), 8);
            work.share(&params(2, None), most);
            assert_eq!(computed(&work), want);
            assert!(work.shares.is_sorted_by_key(|share| Reverse(share.work)));
            assert_eq!(work.items[0].partials.is_some(), most < usize::MAX);
            assert!(work.items[1].partials.is_none(), "a context of one chunk has nothing to combine");
        }
    }

    #[test]
    fn a_long_sequence_beside_short_ones_is_split() {
        let (mut lens, mut rows) = (vec![100; 17], vec![1; 17]);
        (lens[3], rows[3]) = (8192, 1);
        let mut work = Work::default();
        work.cut(&metadata(&lens, &rows), &params(2, None), 8);
        let total: usize = 2 * work.items.iter().map(|item| item.work).sum::<usize>();
        work.share(&params(2, None), total / 8);
        assert!(work.shares[0].work <= total / 8 + CHUNK, "{:?}", work.shares[0]);
        assert_eq!(work.items.iter().filter(|item| item.partials.is_some()).count(), 1);
    }

    #[test]
    fn a_window_leaves_out_the_chunks_before_it() {
        let mut work = Work::default();
        work.cut(&metadata(&[5 * CHUNK], &[1]), &params(1, Some(CHUNK + 1)), 8);
        assert_eq!((work.items[0].first_chunk, work.items[0].end_chunk), (3, 5));
    }
}
