//! An attention op: which rows and heads each thread computes.

use rustllm_ops::{AttentionMetadata, AttentionParams, Result};

use crate::attention::{AttentionTask, scratch_len};
use crate::kernels::Kernels;
use crate::kv_cache::KvBlocks;
use crate::step::Step;
use crate::view::View;

/// Queries (rows x query heads of a KV head) that share each read of keys and values.
const TASK_QUERIES: usize = 32;

/// Multiplications below which one thread is enough.
const WORTH_SHARING: usize = 32 * 1024;

/// Rows of one sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Item {
    seq: usize,
    row: usize,
    rows: usize,
}

/// Cuts the batch into items of at most `task_rows` rows, those with the most keys first within a sequence.
fn cut(metadata: &AttentionMetadata, task_rows: usize, items: &mut Vec<Item>) {
    items.clear();
    let starts = metadata.query_start_loc.as_slice();
    for seq in 0..metadata.num_seqs() {
        let (start, end) = (starts[seq] as usize, starts[seq + 1] as usize);
        let blocks = (end - start).div_ceil(task_rows);
        items.extend((0..blocks).rev().map(|block| {
            let row = start + block * task_rows;
            Item { seq, row, rows: task_rows.min(end - row) }
        }));
    }
}

/// `out = attention(q)`. Shapes are checked.
pub(crate) fn attend(
    step: &mut Step,
    kernels: &Kernels,
    q: View,
    cache: &KvBlocks,
    metadata: &AttentionMetadata,
    params: &AttentionParams,
    out: View,
) -> Result<()> {
    let (head_dim, group) = (params.head_dim, params.num_heads / params.num_kv_heads);
    if group == 0 || head_dim == 0 {
        return Ok(());
    }
    let task_rows = (TASK_QUERIES / group).max(1);
    let mut items = std::mem::take(&mut step.items);
    cut(metadata, task_rows, &mut items);
    let scratch = step.scratch(scratch_len(task_rows * group, head_dim))?;
    let kernel = kernels.attention(cache.spec().dtype);
    let heads = params.num_kv_heads;
    let one = |index: usize, worker: usize| {
        let (item, head) = (items[index / heads], index % heads);
        let task = AttentionTask {
            q: q.row(item.row).wrapping_add(head * group * head_dim),
            q_stride: q.stride,
            out: out.row(item.row).wrapping_add(head * group * head_dim),
            out_stride: out.stride,
            rows: item.rows,
            positions: metadata.positions.as_slice()[item.row..].as_ptr(),
            group,
            head_dim,
            scale: params.scale,
            window: params.sliding_window.unwrap_or(usize::MAX),
            keys: cache.keys(head),
            values: cache.values(head),
            key_block_stride: cache.key_block_stride(),
            value_block_stride: cache.value_block_stride(),
            blocks: metadata.block_table.as_slice()[item.seq * metadata.max_blocks_per_seq..].as_ptr(),
            block_size: cache.spec().block_size,
            scratch: scratch.of(worker),
        };
        // SAFETY: the operands were checked to fit together, so that positions reach only blocks that exist; `out` has
        // the rows and heads that this item alone writes; the scratch is the worker's; the machine runs the kernels.
        unsafe { kernel(&task) };
    };
    let keys: usize = items.iter().map(|item| item.rows * metadata.seq_lens.as_slice()[item.seq] as usize).sum();
    let num_tasks = items.len() * heads;
    let result = if keys * params.num_heads * head_dim < WORTH_SHARING {
        step.run(1, |worker, _| (0..num_tasks).for_each(|index| one(index, worker)))
    } else {
        step.run(num_tasks, |worker, index| one(index, worker))
    };
    step.items = items;
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustllm_ops::Indices;

    #[test]
    fn items_cover_every_row_once() {
        let metadata = AttentionMetadata {
            positions: Indices::host((0..11).collect()),
            slot_mapping: Indices::host((0..11).collect()),
            query_start_loc: Indices::host(vec![0, 7, 7, 8, 11]),
            seq_lens: Indices::host(vec![7, 0, 8, 11]),
            block_table: Indices::host(vec![0; 4]),
            max_blocks_per_seq: 1,
        };
        let mut items = Vec::new();
        cut(&metadata, 3, &mut items);
        let mut rows: Vec<usize> = items.iter().flat_map(|item| item.row..item.row + item.rows).collect();
        rows.sort_unstable();
        assert!(rows.into_iter().eq(0..11));
        assert_eq!(items[0], Item { seq: 0, row: 6, rows: 1 });
        assert_eq!(items[3], Item { seq: 2, row: 7, rows: 1 });
    }
}
