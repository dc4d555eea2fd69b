//! Steps in which every sequence decodes one token, captured as graphs: a launch for a step, not for each of its kernels.
//!
//! ```text
//!   sequences   3 of up to 700 tokens ─► bucket (4 sequences, 1024 tokens)
//!               seen for the first time: as any other step; the second time: captured; from then on: launched
//!
//!   block       [ 0 | 1 | ... | num_blocks - 1 | spare ]     sequences that fill a bucket up read and write the spare one
//! ```
//!
//! A step has its output projection with it, and what follows: the likeliest token of every sequence, or the one drawn if any
//! draws. What they draw with is one more of its inputs.
//!
//! Nothing is captured before it is needed, so that starting takes no longer; what was seen once may never come again.
//!
//! A step may be launched before the tokens of the one before it have reached the host:
//!
//! ```text
//!   latest      tokens of the step launched last, in the order of its sequences
//!      │ ▲
//!      │ └───────────── copied there at the end of each step
//!      └─► token ids    of the rows whose sequences are ahead; the others' come from the host with the lists
//! ```

use std::collections::HashMap;

use rustllm_core::SeqId;
use rustllm_models::{ForwardContext, Model};
use rustllm_ops::{
    Backend, CapturedGraph, Error, Graphs, Indices, KvCache, KvCacheSpec, NO_ROW, Predictions, Result, RowReader,
    SamplingRow, Tensor,
};

use crate::batch::{self, Scheduled};

/// Sequences of the largest bucket; larger steps are long enough for launches not to matter.
const MAX_SEQS: usize = 256;

/// Tokens of the smallest bucket.
const MIN_LEN: usize = 512;

/// The shape of a step's launches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Bucket {
    num_seqs: usize,
    /// Tokens of the longest sequence.
    len: usize,
    /// Whether any sequence draws.
    draws: bool,
}

/// The sequences of the smallest bucket for `num_seqs`: all up to 8, then eight to an octave, so that padding costs an eighth at most.
pub(crate) fn padded_seqs(num_seqs: usize) -> usize {
    num_seqs.next_multiple_of((num_seqs.next_power_of_two() / 16).max(1))
}

impl Bucket {
    /// The smallest bucket that holds `num_seqs` sequences of `len` tokens, of which there may be `max_model_len`.
    fn of(num_seqs: usize, len: usize, max_model_len: usize, draws: bool) -> Self {
        let len = len.max(MIN_LEN).next_power_of_two().min(max_model_len);
        Self { num_seqs: padded_seqs(num_seqs), len, draws }
    }
}

/// A captured step: its launch, and what it computes.
#[derive(Debug)]
struct Captured {
    graph: Box<dyn CapturedGraph>,
    logits: Tensor,
    /// The token of every sequence, as [`Backend::argmax`] has it.
    tokens: Tensor,
}

/// What came of a bucket.
#[derive(Debug)]
enum Seen {
    /// A step in it was computed as any other.
    Once,
    Captured(Captured),
    /// The device has no memory for it: its steps are computed as any other.
    Refused,
}

/// The graphs captured so far.
#[derive(Debug)]
pub(crate) struct DecodeGraphs {
    max_model_len: usize,
    enforce_eager: bool,
    /// The spare block.
    spare: u32,
    buckets: HashMap<Bucket, Seen>,
    /// Tokens of the step launched last, once there was one, and whose they are.
    latest: Option<Tensor>,
    latest_seqs: Vec<SeqId>,
    /// Those that read nothing.
    readers: Vec<Box<dyn RowReader>>,
}

/// Tokens of a step that are on their way from the device.
#[derive(Debug)]
pub(crate) struct PendingTokens(Box<dyn RowReader>);

/// What a step is computed with.
#[derive(Clone, Copy)]
pub(crate) struct Computes<'a> {
    pub backend: &'a dyn Backend,
    pub model: &'a dyn Model,
    pub kv_cache: &'a KvCache,
}

impl DecodeGraphs {
    /// Graphs for a cache whose last block is spare; none if `enforce_eager`.
    pub fn new(max_model_len: usize, kv_cache: &KvCache, enforce_eager: bool) -> Self {
        let spare = (kv_cache.spec().num_blocks as u32).saturating_sub(1);
        Self {
            max_model_len,
            spare,
            enforce_eager,
            buckets: HashMap::new(),
            latest: None,
            latest_seqs: Vec::new(),
            readers: Vec::new(),
        }
    }

    /// Computes a step by a graph: of every sequence its logits and, if `drawn` says how, the token drawn in place of the
    /// likeliest. `None` if that is not how the step is to be computed: for one ahead of its tokens, not before they are known.
    pub fn predict(
        &mut self,
        computes: Computes<'_>,
        scheduled: &[Scheduled<'_>],
        drawn: Option<&[SamplingRow]>,
    ) -> Result<Option<Predictions>> {
        let Some(graphs) = computes.backend.graphs() else { return Ok(None) };
        let decodes = |(entry, sequence): &Scheduled<'_>| {
            entry.num_tokens == 1 && entry.samples && sequence.num_output_tokens() > 0
        };
        if self.enforce_eager || scheduled.len() > MAX_SEQS || !scheduled.iter().all(decodes) {
            return Ok(None);
        }
        let longest = scheduled.iter().map(|(entry, _)| batch::span(entry).end).max().unwrap_or(0);
        let bucket = Bucket::of(scheduled.len(), longest, self.max_model_len, drawn.is_some());
        let mut sources = self.sources(scheduled)?;
        // What is ahead cannot wait for the bucket to be seen again: it will be, by the step after.
        let is_ahead = sources.iter().any(|row| *row != NO_ROW);
        if !is_ahead && !self.buckets.contains_key(&bucket) {
            self.buckets.insert(bucket, Seen::Once);
            return Ok(None);
        }
        let latest = match &self.latest {
            Some(latest) => latest,
            None => self.latest.insert(computes.backend.tensor(&[0.0; 2 * MAX_SEQS], MAX_SEQS, 2)?),
        };
        let seen = self.buckets.entry(bucket).or_insert(Seen::Once);
        if let Seen::Once = seen {
            *seen = match capture(graphs, computes, bucket, (self.spare, latest)) {
                Ok(captured) => Seen::Captured(captured),
                Err(error @ Error::DeviceLost { .. }) => return Err(error),
                Err(_) => Seen::Refused,
            };
        }
        let Seen::Captured(captured) = seen else { return Ok(None) };
        let spec = computes.kv_cache.spec();
        let blocks_per_seq = bucket.len.div_ceil(spec.block_size);
        let mut lists = batch::lists(scheduled, spec, blocks_per_seq);
        batch::pad(&mut lists, bucket.num_seqs, self.spare, (spec.block_size, blocks_per_seq));
        sources.resize(bucket.num_seqs, NO_ROW);
        lists.push(sources);
        lists.extend(drawn.map(|rows| padded_rows(rows, bucket.num_seqs)));
        let lists: Vec<&[u32]> = lists.iter().map(Vec::as_slice).collect();
        captured.graph.launch(&lists)?;
        self.latest_seqs.clear();
        self.latest_seqs.extend(scheduled.iter().map(|(entry, _)| entry.seq_id));
        Ok(Some(Predictions { logits: captured.logits.clone(), argmax: captured.tokens.clone() }))
    }

    /// For each sequence the row of `latest` that has its token, if the host has not: both are in the scheduler's order.
    fn sources(&self, scheduled: &[Scheduled<'_>]) -> Result<Vec<u32>> {
        let mut rows = self.latest_seqs.iter().zip(0u32..);
        let source = |(entry, _): &Scheduled<'_>| match entry.is_ahead {
            false => Ok(NO_ROW),
            true => rows.find(|(seq_id, _)| **seq_id == entry.seq_id).map(|(_, row)| row).ok_or_else(|| Error::Shape {
                op: "launch",
                detail: format!("{:?} is ahead of a step it was not in", entry.seq_id),
            }),
        };
        scheduled.iter().map(source).collect()
    }

    /// Sends the tokens of a step to the host while the device goes on to the next.
    pub fn start_reading(&mut self, graphs: &dyn Graphs, tokens: &Tensor) -> Result<PendingTokens> {
        let reader = self.readers.pop().map_or_else(|| graphs.reader(2 * MAX_SEQS), Ok);
        let mut reader = reader?;
        reader.start(tokens)?;
        Ok(PendingTokens(reader))
    }

    /// The tokens of a step and their logits, once they are there.
    pub fn read(&mut self, PendingTokens(mut reader): PendingTokens) -> Result<Vec<[f32; 2]>> {
        let tokens = reader.wait()?.as_chunks::<2>().0.to_vec();
        self.readers.push(reader);
        Ok(tokens)
    }
}

/// Captures the largest step there can be, of `max_num_seqs` sequences if so many are captured, and forgets it: the memory that
/// captured steps compute in is then part of what is in use.
pub(crate) fn reserve(
    backend: &dyn Backend,
    model: &dyn Model,
    spec: &KvCacheSpec,
    (max_num_seqs, max_model_len): (usize, usize),
) -> Result<()> {
    let Some(graphs) = backend.graphs() else { return Ok(()) };
    let kv_cache = backend.alloc_kv_cache(&KvCacheSpec { num_blocks: 1, ..spec.clone() })?;
    let bucket = Bucket::of(max_num_seqs.min(MAX_SEQS), 1, max_model_len, backend.sampler().is_some());
    let latest = backend.tensor(&[0.0; 2 * MAX_SEQS], MAX_SEQS, 2)?;
    let computes = Computes { backend, model, kv_cache: &kv_cache };
    capture(graphs, computes, bucket, (0, &latest)).map(drop)
}

/// The list of what `num_seqs` sequences draw with: those of `rows`, then greedy ones.
fn padded_rows(rows: &[SamplingRow], num_seqs: usize) -> Vec<u32> {
    let mut rows = rows.to_vec();
    rows.resize(num_seqs, SamplingRow::GREEDY);
    SamplingRow::pack(&rows)
}

/// Captures the step of a bucket, after running it once on the spare block, so that its kernels are loaded.
fn capture(
    graphs: &dyn Graphs,
    computes: Computes<'_>,
    bucket: Bucket,
    (spare, latest): (u32, &Tensor),
) -> Result<Captured> {
    let spec = computes.kv_cache.spec();
    let mut lists = batch::decode_lists(bucket.num_seqs, bucket.len, spare, spec);
    let num_lists = lists.len();
    lists.push(vec![NO_ROW; bucket.num_seqs]);
    let sampler = computes.backend.sampler().filter(|_| bucket.draws);
    lists.extend(sampler.map(|_| padded_rows(&[], bucket.num_seqs)));
    let blocks_per_seq = bucket.len.div_ceil(spec.block_size);
    let step = |indices: &[Indices], latest: &Tensor| {
        let Computes { backend, model, kv_cache } = computes;
        let (of_batch, others) = indices.split_at(num_lists);
        let mut lists = of_batch.to_vec();
        lists[0] = graphs.chained_ids(&lists[0], &others[0], latest)?;
        let batch = batch::forward_batch(lists, blocks_per_seq);
        let hidden = model.forward(&ForwardContext { backend, batch: &batch, kv_cache })?;
        let logits = model.predict(backend, &hidden, bucket.num_seqs)?.logits;
        let tokens = match (sampler, &others[1..]) {
            (Some(sampler), [rows]) => sampler.sample(&logits, rows)?,
            _ => backend.argmax(&logits)?,
        };
        graphs.keep(&tokens, latest)?;
        Ok(vec![logits, tokens])
    };
    let eager = lists.iter().map(|list| computes.backend.indices(list.clone())).collect::<Result<Vec<_>>>()?;
    // What is in `latest` may be wanted by the very step that this is captured for.
    step(&eager, &computes.backend.tensor(&vec![0.0; 2 * bucket.num_seqs], bucket.num_seqs, 2)?)?;
    let latest = latest.row_range(0, bucket.num_seqs)?;
    let (graph, results) = graphs.capture(lists, &mut |indices| step(indices, &latest))?;
    let [logits, tokens] = <[Tensor; 2]>::try_from(results).expect("the step has two results");
    Ok(Captured { graph, logits, tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_are_for_and_little_more() {
        for num_seqs in 1..=MAX_SEQS {
            let bucket = Bucket::of(num_seqs, 1, 4096, false);
            assert!(
                bucket.num_seqs >= num_seqs && bucket.num_seqs <= num_seqs + num_seqs / 8,
                "{num_seqs}: {bucket:?}"
            );
            assert_eq!(Bucket::of(bucket.num_seqs, 1, 4096, false), bucket, "a full bucket is its own");
        }
        let len = |len| Bucket::of(1, len, 3000, true).len;
        assert_eq!([len(1), len(512), len(513), len(1025), len(2049), len(3000)], [512, 512, 1024, 2048, 3000, 3000]);
        assert_eq!(Bucket::of(1, 1, 100, false).len, 100, "a model's own limit");
    }
}
