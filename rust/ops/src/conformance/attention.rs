//! Causal attention over a paged cache.

use std::ops::Range;

use super::{Case, numbers, random_tensor, rows_of};
use crate::{
    AttentionMetadata, AttentionParams, Backend, GroupMetadata, KvCacheDType, KvCacheGroup, KvCacheKind, KvCacheSpec,
    Result, Tensor, check,
};

/// A batch of sequences over a paged cache: for each, the tokens cached before this step and those of this step.
///
/// Blocks are dealt out of order, and every slot of every block is first filled with NaN, as if another sequence had left
/// it there: what a row may not see must not reach its result. With a window, blocks that the step's rows do not see are no
/// block at all, and what lies before the window in the first they see is NaN. The layer is one of three, in two groups.
#[derive(Debug, Clone)]
pub struct AttentionCase {
    /// `(cached before, tokens of this step)` of each sequence.
    pub seqs: Vec<(usize, usize)>,
    /// All but what lies in a backend's memory: see [`params`](Self::params).
    pub shape: AttentionParams,
    /// Whether heads have ALiBi slopes.
    pub alibi: bool,
    /// Whether heads have sinks.
    pub sinks: bool,
    /// Tokens of a block.
    pub block_size: usize,
    /// Dtype of the cache.
    pub dtype: KvCacheDType,
}

impl AttentionCase {
    /// Rows of the step.
    pub fn num_tokens(&self) -> usize {
        self.seqs.iter().map(|(_, new)| new).sum()
    }

    /// What attention computes, slopes and sinks included.
    ///
    /// # Errors
    /// No memory.
    pub fn params(&self, backend: &dyn Backend) -> Result<AttentionParams> {
        let (heads, mut params) = (self.shape.num_heads, self.shape.clone());
        if self.alibi {
            let slopes: Vec<f32> = (1..=heads).map(|head| 0.5f32.powi(head as i32)).collect();
            params.alibi_slopes = Some(backend.tensor(&slopes, 1, heads)?);
        }
        if self.sinks {
            params.sinks = Some(random_tensor(backend, 1, heads, 4)?);
        }
        Ok(params)
    }

    fn max_blocks(&self) -> usize {
        self.seqs.iter().map(|(cached, new)| (cached + new).div_ceil(self.block_size)).max().unwrap_or(0)
    }

    fn num_blocks(&self) -> usize {
        self.seqs.len() * self.max_blocks() + 2
    }

    /// The first position that the step of a sequence of `cached` tokens sees.
    fn first_seen(&self, cached: usize) -> usize {
        check::first_seen(&[cached as u32], &self.shape)
    }

    /// The metadata of rows `from(cached) .. to` of every sequence.
    fn metadata(
        &self,
        backend: &dyn Backend,
        span: impl Fn(usize, usize) -> (usize, usize),
    ) -> Result<AttentionMetadata> {
        let (max_blocks, num_blocks) = (self.max_blocks(), self.num_blocks());
        let (mut positions, mut slots, mut starts, mut lens) = (vec![], vec![], vec![0], vec![]);
        // Block 0 and the last are nobody's; the others are dealt from the end.
        let mut table: Vec<u32> = (0..self.seqs.len() * max_blocks).map(|i| (num_blocks - 2 - i) as u32).collect();
        for (seq, (cached, new)) in self.seqs.iter().enumerate() {
            let (from, to) = span(*cached, *new);
            table[seq * max_blocks..][..self.first_seen(*cached) / self.block_size].fill(u32::MAX);
            for position in from..to {
                let block = table[seq * max_blocks + position / self.block_size] as usize;
                positions.push(position as u32);
                slots.push((block * self.block_size + position % self.block_size) as u32);
            }
            starts.push(positions.len() as u32);
            lens.push(to as u32);
        }
        let group = |slots: Vec<u32>, table: Vec<u32>| -> Result<GroupMetadata> {
            let (slot_mapping, block_table) = (backend.indices(slots)?, backend.indices(table)?);
            Ok(GroupMetadata { slot_mapping, block_table, max_blocks_per_seq: max_blocks })
        };
        Ok(AttentionMetadata {
            groups: vec![group(vec![u32::MAX; slots.len()], vec![u32::MAX; table.len()])?, group(slots, table)?],
            positions: backend.indices(positions)?,
            query_start_loc: backend.indices(starts)?,
            seq_lens: backend.indices(lens)?,
        })
    }

    /// Keys or values of every token of `metadata`: a function of sequence and position alone.
    fn kv(&self, backend: &dyn Backend, metadata: &AttentionMetadata, seed: u64) -> Result<Tensor> {
        let width = self.shape.num_kv_heads * self.shape.head_dim;
        Self::per_token(backend, metadata, width, seed)
    }

    fn per_token(backend: &dyn Backend, metadata: &AttentionMetadata, width: usize, seed: u64) -> Result<Tensor> {
        let starts = metadata.query_start_loc.as_slice();
        let mut values = Vec::new();
        for seq in 0..metadata.num_seqs() {
            for row in starts[seq]..starts[seq + 1] {
                let token = (seq as u64) << 12 | u64::from(metadata.positions.as_slice()[row as usize]);
                values.extend(numbers(width, token << 4 | seed).iter().map(|v| 2.0 * v));
            }
        }
        backend.tensor(&values, metadata.num_tokens(), width)
    }

    /// Poisons the cache, writes what was cached before and this step's tokens, and attends.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn outputs(&self, backend: &dyn Backend) -> Result<Vec<Vec<f32>>> {
        let AttentionParams { sliding_window, num_kv_heads, head_dim, .. } = self.shape;
        let kind = KvCacheKind { sliding_window, num_kv_heads, head_dim };
        let wider = KvCacheKind { sliding_window: None, num_kv_heads: num_kv_heads + 1, head_dim: 3 * head_dim };
        let cache = backend.alloc_kv_cache(&KvCacheSpec {
            groups: vec![KvCacheGroup { kind: wider, layers: vec![0] }, KvCacheGroup { kind, layers: vec![1, 2] }],
            block_size: self.block_size,
            num_blocks: self.num_blocks(),
            dtype: self.dtype,
        })?;
        let layer = cache.layer(2);
        let slots = self.num_blocks() * self.block_size;
        let width = self.shape.num_kv_heads * self.shape.head_dim;
        let poison = backend.tensor(&vec![f32::NAN; slots * width], slots, width)?;
        let mut everywhere = self.metadata(backend, |_, _| (0, 0))?;
        everywhere.groups[layer.group].slot_mapping = backend.indices((0..slots as u32).collect())?;
        backend.write_kv(&poison, &poison, layer, &everywhere)?;
        let before = self.metadata(backend, |cached, _| (self.first_seen(cached), cached))?;
        if before.num_tokens() > 0 {
            backend.write_kv(&self.kv(backend, &before, 1)?, &self.kv(backend, &before, 2)?, layer, &before)?;
        }
        let step = self.metadata(backend, |cached, new| (cached, cached + new))?;
        backend.write_kv(&self.kv(backend, &step, 1)?, &self.kv(backend, &step, 2)?, layer, &step)?;
        let q = Self::per_token(backend, &step, self.shape.num_heads * self.shape.head_dim, 3)?;
        rows_of(backend, &backend.attention(&q, layer, &step, &self.params(backend)?)?)
    }

    /// The rows that sequence `seq` has among the [`outputs`](Self::outputs), and the same sequence in a batch where the others
    /// have one token: of its outputs, those rows are from `seq` on.
    pub fn alone(&self, seq: usize) -> (Range<usize>, Self) {
        let first = self.seqs[..seq].iter().map(|(_, new)| new).sum();
        let mut seqs = vec![(0, 1); self.seqs.len()];
        seqs[seq] = self.seqs[seq];
        (first..first + seqs[seq].1, Self { seqs, ..self.clone() })
    }

    /// Writes and attends to a sequence of its own, chunk after chunk of so many tokens, in the blocks of `table`.
    ///
    /// # Errors
    /// What an op fails with.
    pub fn in_chunks(&self, backend: &dyn Backend, chunks: &[usize], table: &[u32]) -> Result<Vec<Vec<f32>>> {
        let AttentionParams { num_heads, num_kv_heads, head_dim, sliding_window, .. } = self.shape;
        let spec = KvCacheSpec {
            groups: KvCacheGroup::cut(&[KvCacheKind { sliding_window, num_kv_heads, head_dim }]),
            block_size: self.block_size,
            num_blocks: table.iter().max().map_or(0, |last| *last as usize + 1),
            dtype: self.dtype,
        };
        let cache = backend.alloc_kv_cache(&spec)?;
        let (len, kv, q) = (chunks.iter().sum::<usize>(), num_kv_heads * head_dim, num_heads * head_dim);
        let (keys, values, queries) = (numbers(len * kv, 1), numbers(len * kv, 2), numbers(len * q, 3));
        let params = self.params(backend)?;
        let mut rows = Vec::new();
        let mut start = 0;
        for chunk in chunks {
            let end = start + chunk;
            let metadata = self.chunk_metadata(backend, start..end, table)?;
            let part =
                |values: &[f32], width: usize| backend.tensor(&values[start * width..end * width], *chunk, width);
            backend.write_kv(&part(&keys, kv)?, &part(&values, kv)?, cache.layer(0), &metadata)?;
            rows.extend(rows_of(
                backend,
                &backend.attention(&part(&queries, q)?, cache.layer(0), &metadata, &params)?,
            )?);
            start = end;
        }
        Ok(rows)
    }

    /// The metadata of a step that has these tokens of one sequence.
    pub(super) fn chunk_metadata(
        &self,
        backend: &dyn Backend,
        tokens: Range<usize>,
        table: &[u32],
    ) -> Result<AttentionMetadata> {
        let slot = |p: usize| table[p / self.block_size] * self.block_size as u32 + (p % self.block_size) as u32;
        let mut seen = table.to_vec();
        seen[..self.first_seen(tokens.start) / self.block_size].fill(u32::MAX);
        Ok(AttentionMetadata {
            positions: backend.indices((tokens.start as u32..tokens.end as u32).collect())?,
            query_start_loc: backend.indices(vec![0, tokens.len() as u32])?,
            seq_lens: backend.indices(vec![tokens.end as u32])?,
            groups: vec![GroupMetadata {
                slot_mapping: backend.indices(tokens.map(slot).collect())?,
                block_table: backend.indices(seen)?,
                max_blocks_per_seq: table.len(),
            }],
        })
    }
}

/// The attention cases, for tests that vary them further.
pub fn attention_table() -> Vec<AttentionCase> {
    let ragged = vec![(0, 21), (40, 9), (63, 1), (0, 1), (16, 16), (130, 1), (5, 3)];
    // Contexts that end before, at and after multiples of a few hundred positions, some long, some of the step's own.
    let long = vec![(255, 1), (256, 1), (250, 40), (1100, 1), (700, 5), (3, 2), (511, 2)];
    let shapes = [
        // query heads, KV heads, elements of a head, block size, window, sequences
        (1, 1, 8, 16, None, &ragged),
        (4, 4, 16, 16, None, &ragged),
        (4, 2, 40, 32, None, &ragged),
        (8, 2, 64, 16, None, &ragged),
        (14, 2, 64, 64, None, &ragged),
        (8, 1, 80, 16, None, &ragged),
        (4, 4, 96, 32, None, &ragged),
        (4, 2, 128, 64, None, &ragged),
        (3, 1, 256, 16, None, &ragged),
        (6, 3, 24, 16, Some(1), &ragged),
        (4, 1, 64, 16, Some(17), &ragged),
        (2, 2, 48, 32, Some(50), &ragged),
        (7, 1, 16, 16, None, &long),
        (2, 2, 40, 32, None, &long),
        (3, 1, 16, 64, Some(270), &long),
    ];
    let rules = [
        // row of the shapes, soft cap, ALiBi, sinks
        (2, Some(3.0), false, false),
        (3, None, true, false),
        (5, None, false, true),
        (10, Some(2.0), true, true),
        (12, Some(3.0), false, true),
        (13, None, true, false),
        (14, Some(2.0), true, true),
    ];
    let plain = (0..shapes.len()).map(|row| (row, None, false, false));
    let mut table = Vec::new();
    for (row, soft_cap, alibi, sinks) in plain.chain(rules) {
        let (num_heads, num_kv_heads, head_dim, block_size, sliding_window, seqs) = shapes[row];
        let new = AttentionParams::new(num_heads, num_kv_heads, head_dim);
        let shape = AttentionParams { sliding_window, soft_cap, ..new };
        for dtype in KvCacheDType::ALL {
            table.push(AttentionCase { seqs: seqs.clone(), shape: shape.clone(), alibi, sinks, block_size, dtype });
        }
    }
    table
}

pub(super) fn attention_cases(cases: &mut Vec<Case>) {
    for case in attention_table() {
        let AttentionParams { num_heads, num_kv_heads, head_dim, sliding_window, soft_cap, .. } = case.shape;
        let longest = case.seqs.iter().map(|(cached, new)| cached + new).max().unwrap_or(0);
        let name = format!(
            "attention {} {num_heads}/{num_kv_heads} heads of {head_dim}, {longest} tokens in blocks of {}, window \
             {sliding_window:?}, soft cap {soft_cap:?}, ALiBi {}, sinks {}",
            case.dtype, case.block_size, case.alibi, case.sinks
        );
        // Scores of a few units with float32 rounding become relative errors of the weights, and of their sums. An int8 cache
        // is no worse: backends quantize to the same numbers, so that what differs is the order of arithmetic.
        cases.push(Case::new(name, 5e-6, move |backend| case.outputs(backend)));
    }
}
