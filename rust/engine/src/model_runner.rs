use std::ops::Range;
use std::sync::Arc;

use rustllm_core::{BlockId, PoolingTask, ScheduledSequence, Scheduler, SchedulerOutput, SeqId, Sequence};
use rustllm_models::{ForwardBatch, ForwardContext, Model};
use rustllm_ops::{AttentionMetadata, Backend, GroupMetadata, KvCache, Result};

use crate::PromptLogprobs;
use crate::pooling::{NotFinite, Pooled, PoolingRunner};
use crate::sampler::{SampleError, SampledToken};
use crate::sampling::{ComputedStep, SamplingRunner};

/// What the model made of one scheduled sequence.
#[derive(Debug, Default)]
pub(crate) struct SampledRow {
    /// The next token, where the step reached the sequence's end; an error concerns this sequence alone.
    pub sampled: Option<std::result::Result<SampledToken, SampleError>>,
    /// With the first token of a sequence that asked for them.
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// What was made of a prompt, where the step reached its end; an error concerns this sequence alone.
    pub pooled: Option<std::result::Result<Pooled, NotFinite>>,
}

impl SampledRow {
    pub fn token_id(&self) -> Option<u32> {
        self.sampled.as_ref()?.as_ref().ok().map(|token| token.token_id)
    }

    pub fn error(&self) -> Option<String> {
        let pooled = self.pooled.as_ref().and_then(|pooled| pooled.as_ref().err()).map(ToString::to_string);
        pooled.or_else(|| self.sampled.as_ref()?.as_ref().err().map(ToString::to_string))
    }
}

/// Turns the scheduler's decisions into a batch, runs the model on it and samples.
#[derive(Debug)]
pub(crate) struct ModelRunner {
    backend: Arc<dyn Backend>,
    model: Box<dyn Model>,
    kv_cache: KvCache,
    sampling: SamplingRunner,
    /// For a model that is pooled.
    pooling: Option<PoolingRunner>,
}

/// The positions that a step computes.
fn span(entry: &ScheduledSequence) -> Range<usize> {
    entry.num_computed_tokens..entry.num_computed_tokens + entry.num_tokens
}

impl ModelRunner {
    pub fn new(
        backend: Arc<dyn Backend>,
        model: Box<dyn Model>,
        kv_cache: KvCache,
        sampling: SamplingRunner,
        pooling: Option<PoolingRunner>,
    ) -> Self {
        Self { backend, model, kv_cache, sampling, pooling }
    }

    /// Computes a step. Returns an entry for each scheduled sequence, in order.
    pub fn execute(&mut self, scheduler: &Scheduler, output: &SchedulerOutput) -> Result<Vec<SampledRow>> {
        let scheduled: Vec<(&ScheduledSequence, &Sequence)> = output
            .sequences
            .iter()
            .map(|entry| (entry, scheduler.sequence(entry.seq_id).expect("the scheduler knows what it scheduled")))
            .collect();
        let batch = self.batch(&scheduled)?;
        let context = ForwardContext { backend: &*self.backend, batch: &batch, kv_cache: &self.kv_cache };
        let hidden = self.model.forward(&context)?;

        let mut rows: Vec<SampledRow> = scheduled.iter().map(|_| SampledRow::default()).collect();
        let starts = batch.attention.query_start_loc.as_slice();
        if let Some(pooling) = &mut self.pooling {
            let pooled = pooling.pool(&*self.backend, &hidden, starts, &scheduled)?;
            rows.iter_mut().zip(pooled).for_each(|(row, pooled)| row.pooled = pooled);
            return Ok(rows);
        }
        let (backend, model) = (&*self.backend, &*self.model);
        let step = ComputedStep { backend, model, hidden: &hidden, starts, scheduled: &scheduled };
        self.sampling.run(&step, &mut rows)?;
        Ok(rows)
    }

    /// Whether a pooling task reads more of a prompt than its last row.
    pub fn reads_every_row(&self, task: PoolingTask) -> bool {
        self.pooling.as_ref().is_some_and(|pooling| pooling.reads_every_row(task))
    }

    /// Forgets what is kept of a sequence that has ended.
    pub fn forget(&mut self, seq_id: SeqId) {
        self.sampling.forget(seq_id);
        if let Some(pooling) = &mut self.pooling {
            pooling.forget(seq_id);
        }
    }

    /// The flat ragged batch: see [`AttentionMetadata`] for its picture.
    fn batch(&self, scheduled: &[(&ScheduledSequence, &Sequence)]) -> Result<ForwardBatch> {
        if self.model.is_bidirectional() {
            return self.whole_prompts(scheduled);
        }
        let num_tokens = scheduled.iter().map(|(entry, _)| entry.num_tokens).sum();
        let mut token_ids = Vec::with_capacity(num_tokens);
        let mut positions = Vec::with_capacity(num_tokens);
        let mut query_start_loc = Vec::with_capacity(scheduled.len() + 1);
        let mut seq_lens = Vec::with_capacity(scheduled.len());
        query_start_loc.push(0);
        for (entry, sequence) in scheduled {
            let span = span(entry);
            token_ids.extend_from_slice(&sequence.token_ids()[span.clone()]);
            seq_lens.push(span.end as u32);
            positions.extend(span.map(|position| position as u32));
            query_start_loc.push(token_ids.len() as u32);
        }
        let groups = 0..self.kv_cache.spec().groups.len();
        Ok(ForwardBatch {
            token_ids: self.backend.indices(token_ids)?,
            token_type_ids: None,
            attention: AttentionMetadata {
                positions: self.backend.indices(positions)?,
                query_start_loc: self.backend.indices(query_start_loc)?,
                seq_lens: self.backend.indices(seq_lens)?,
                groups: groups.map(|group| self.group_metadata(scheduled, group, num_tokens)).collect::<Result<_>>()?,
            },
        })
    }

    /// Where a group of layers keeps the keys and values of the batch.
    fn group_metadata(
        &self,
        scheduled: &[(&ScheduledSequence, &Sequence)],
        group: usize,
        num_tokens: usize,
    ) -> Result<GroupMetadata> {
        let block_size = self.kv_cache.spec().block_size;
        let used = |entry: &ScheduledSequence| span(entry).end.div_ceil(block_size);
        let max_blocks_per_seq = scheduled.iter().map(|(entry, _)| used(entry)).max().unwrap_or(0);
        let mut slot_mapping = Vec::with_capacity(num_tokens);
        let mut block_table = Vec::with_capacity(scheduled.len() * max_blocks_per_seq);
        for (entry, sequence) in scheduled {
            let first = block_table.len();
            block_table.extend(sequence.block_table().group(group).take(used(entry)).map(|block| block.0));
            slot_mapping.extend(span(entry).map(|position| {
                block_table[first + position / block_size] * block_size as u32 + (position % block_size) as u32
            }));
            block_table.resize(first + max_blocks_per_seq, BlockId::NULL.0);
        }
        Ok(GroupMetadata {
            slot_mapping: self.backend.indices(slot_mapping)?,
            block_table: self.backend.indices(block_table)?,
            max_blocks_per_seq,
        })
    }

    /// The batch of a model that reads whole prompts, and has no cache for slots and blocks to be in.
    fn whole_prompts(&self, scheduled: &[(&ScheduledSequence, &Sequence)]) -> Result<ForwardBatch> {
        let (mut token_ids, mut types, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        let (mut query_start_loc, mut seq_lens) = (vec![0], Vec::with_capacity(scheduled.len()));
        for (entry, sequence) in scheduled {
            debug_assert_eq!(entry.num_tokens, sequence.num_tokens(), "the scheduler does not cut these prompts");
            token_ids.extend_from_slice(sequence.token_ids());
            positions.extend(0..entry.num_tokens as u32);
            match sequence.pooling().and_then(|pooling| pooling.token_type_ids.as_ref()) {
                Some(given) => types.extend_from_slice(given),
                None => types.resize(token_ids.len(), 0),
            }
            query_start_loc.push(token_ids.len() as u32);
            seq_lens.push(entry.num_tokens as u32);
        }
        Ok(ForwardBatch {
            token_ids: self.backend.indices(token_ids)?,
            token_type_ids: Some(self.backend.indices(types)?),
            attention: AttentionMetadata {
                positions: self.backend.indices(positions)?,
                query_start_loc: self.backend.indices(query_start_loc)?,
                seq_lens: self.backend.indices(seq_lens)?,
                groups: Vec::new(),
            },
        })
    }
}
