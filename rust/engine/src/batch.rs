//! The flat ragged batch of a step as lists of numbers: see [`AttentionMetadata`] for its picture.
//!
//! ```text
//!   lists, in this order     token_ids, positions, query_start_loc, seq_lens, then of each group: slot_mapping, block_table
//!                            │
//!                            ├─► indices of one step ─────────────────────► ForwardBatch
//!                            └─► padded, in a captured graph's own places ─► ForwardBatch, again and again
//! ```

use std::ops::Range;

use rustllm_core::{BlockId, ScheduledSequence, Sequence};
use rustllm_models::ForwardBatch;
use rustllm_ops::{AttentionMetadata, GroupMetadata, Indices, KvCacheSpec};

/// Lists that do not belong to a group.
const COMMON: usize = 4;

/// What is scheduled of a sequence, and the sequence.
pub(crate) type Scheduled<'a> = (&'a ScheduledSequence, &'a Sequence);

/// The positions that a step computes.
pub(crate) fn span(entry: &ScheduledSequence) -> Range<usize> {
    entry.num_computed_tokens..entry.num_computed_tokens + entry.num_tokens
}

/// Blocks that the longest of the sequences uses once the step has run.
pub(crate) fn max_blocks(scheduled: &[Scheduled<'_>], block_size: usize) -> usize {
    scheduled.iter().map(|(entry, _)| span(entry).end.div_ceil(block_size)).max().unwrap_or(0)
}

/// The lists of a step, whose block tables have rows of `max_blocks_per_seq`.
pub(crate) fn lists(scheduled: &[Scheduled<'_>], spec: &KvCacheSpec, max_blocks_per_seq: usize) -> Vec<Vec<u32>> {
    let num_tokens = scheduled.iter().map(|(entry, _)| entry.num_tokens).sum();
    let (mut token_ids, mut positions) = (Vec::with_capacity(num_tokens), Vec::with_capacity(num_tokens));
    let (mut query_start_loc, mut seq_lens) = (vec![0], Vec::with_capacity(scheduled.len()));
    for (entry, sequence) in scheduled {
        let span = span(entry);
        match entry.is_ahead {
            // Known to the device alone, which puts it here: see `decode_graphs`.
            true => token_ids.push(0),
            false => token_ids.extend_from_slice(&sequence.token_ids()[span.clone()]),
        }
        seq_lens.push(span.end as u32);
        positions.extend(span.map(|position| position as u32));
        query_start_loc.push(token_ids.len() as u32);
    }
    let mut lists = vec![token_ids, positions, query_start_loc, seq_lens];
    for group in 0..spec.groups.len() {
        lists.extend(group_lists(scheduled, group, spec.block_size, max_blocks_per_seq));
    }
    lists
}

/// Where a group of layers keeps the keys and values of the batch: slots, and blocks.
fn group_lists(
    scheduled: &[Scheduled<'_>],
    group: usize,
    block_size: usize,
    max_blocks_per_seq: usize,
) -> [Vec<u32>; 2] {
    let mut slot_mapping = Vec::new();
    let mut block_table = Vec::with_capacity(scheduled.len() * max_blocks_per_seq);
    for (entry, sequence) in scheduled {
        let (first, used) = (block_table.len(), span(entry).end.div_ceil(block_size));
        block_table.extend(sequence.block_table().group(group).take(used).map(|block| block.0));
        slot_mapping.extend(span(entry).map(|position| {
            block_table[first + position / block_size] * block_size as u32 + (position % block_size) as u32
        }));
        block_table.resize(first + max_blocks_per_seq, BlockId::NULL.0);
    }
    [slot_mapping, block_table]
}

/// Puts the lists, as indices, where a model looks for them.
pub(crate) fn forward_batch(lists: Vec<Indices>, max_blocks_per_seq: usize) -> ForwardBatch {
    let mut lists = lists.into_iter();
    let mut next = || lists.next().expect("there are the lists of every group");
    let (token_ids, positions, query_start_loc, seq_lens) = (next(), next(), next(), next());
    let rest: Vec<Indices> = lists.collect();
    let groups = rest.as_chunks::<2>().0.iter().map(|[slot_mapping, block_table]| GroupMetadata {
        slot_mapping: slot_mapping.clone(),
        block_table: block_table.clone(),
        max_blocks_per_seq,
    });
    let groups = groups.collect();
    ForwardBatch {
        token_ids,
        token_type_ids: None,
        attention: AttentionMetadata { positions, query_start_loc, seq_lens, groups },
    }
}

/// Adds sequences of one token until there are `num_seqs`: they read and write `block`, which is nobody's.
pub(crate) fn pad(
    lists: &mut [Vec<u32>],
    num_seqs: usize,
    block: u32,
    (block_size, max_blocks_per_seq): (usize, usize),
) {
    let (common, groups) = lists.split_at_mut(COMMON);
    let [token_ids, positions, query_start_loc, seq_lens] = common else {
        unreachable!("there are {COMMON} such lists")
    };
    while seq_lens.len() < num_seqs {
        token_ids.push(0);
        positions.push(0);
        seq_lens.push(1);
        query_start_loc.push(token_ids.len() as u32);
    }
    for [slot_mapping, block_table] in groups.as_chunks_mut::<2>().0 {
        slot_mapping.resize(num_seqs, block * block_size as u32);
        while block_table.len() < num_seqs * max_blocks_per_seq {
            block_table.push(block);
            block_table.resize(block_table.len() + max_blocks_per_seq - 1, BlockId::NULL.0);
        }
    }
}

/// The lists of `num_seqs` sequences, each at its `len`-th token, that read and write nothing but `block`: what a graph is captured
/// with.
pub(crate) fn decode_lists(num_seqs: usize, len: usize, block: u32, spec: &KvCacheSpec) -> Vec<Vec<u32>> {
    let blocks = len.div_ceil(spec.block_size);
    let mut lists = vec![
        vec![0; num_seqs],
        vec![len as u32 - 1; num_seqs],
        (0..=num_seqs as u32).collect(),
        vec![len as u32; num_seqs],
    ];
    for _ in &spec.groups {
        let slot = block * spec.block_size as u32 + (len as u32 - 1) % spec.block_size as u32;
        lists.push(vec![slot; num_seqs]);
        lists.push(vec![block; num_seqs * blocks]);
    }
    lists
}
