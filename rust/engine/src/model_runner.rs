use std::sync::Arc;

use rustllm_core::{PoolingTask, Scheduler, SchedulerOutput, SeqId};
use rustllm_models::{ForwardBatch, ForwardContext, Model};
use rustllm_ops::{AttentionMetadata, Backend, KvCache, Result};

use crate::PromptLogprobs;
use crate::batch::{self, Scheduled};
use crate::decode_graphs::{Computes, DecodeGraphs};
use crate::pooling::{NotFinite, Pooled, PoolingRunner};
use crate::sampler::{SampleError, SampledToken};
use crate::sampling::{Computed, ComputedStep, SamplingRunner};

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
    graphs: DecodeGraphs,
    sampling: SamplingRunner,
    /// For a model that is pooled.
    pooling: Option<PoolingRunner>,
}

impl ModelRunner {
    pub fn new(
        backend: Arc<dyn Backend>,
        model: Box<dyn Model>,
        kv_cache: KvCache,
        graphs: DecodeGraphs,
        sampling: SamplingRunner,
        pooling: Option<PoolingRunner>,
    ) -> Self {
        Self { backend, model, kv_cache, graphs, sampling, pooling }
    }

    /// Computes a step. Returns an entry for each scheduled sequence, in order.
    pub fn execute(&mut self, scheduler: &Scheduler, output: &SchedulerOutput) -> Result<Vec<SampledRow>> {
        let scheduled: Vec<Scheduled<'_>> = output
            .sequences
            .iter()
            .map(|entry| (entry, scheduler.sequence(entry.seq_id).expect("the scheduler knows what it scheduled")))
            .collect();
        let mut rows: Vec<SampledRow> = scheduled.iter().map(|_| SampledRow::default()).collect();
        let (backend, model) = (&*self.backend, &*self.model);
        let computes = Computes { backend, model, kv_cache: &self.kv_cache };
        let drawn = self.sampling.drawn_rows(backend, &scheduled);
        if let Some(predictions) = self.graphs.predict(computes, &scheduled, drawn.as_deref())? {
            let starts: Vec<u32> = (0..=scheduled.len() as u32).collect();
            let computed = Computed::Predictions(&predictions);
            let step = ComputedStep { backend, model, computed, starts: &starts, scheduled: &scheduled };
            self.sampling.run(&step, &mut rows)?;
            return Ok(rows);
        }
        let batch = self.batch(&scheduled)?;
        let hidden = model.forward(&ForwardContext { backend, batch: &batch, kv_cache: &self.kv_cache })?;
        let starts = batch.attention.query_start_loc.as_slice();
        if let Some(pooling) = &mut self.pooling {
            let pooled = pooling.pool(backend, &hidden, starts, &scheduled)?;
            rows.iter_mut().zip(pooled).for_each(|(row, pooled)| row.pooled = pooled);
            return Ok(rows);
        }
        let computed = Computed::Hidden(&hidden);
        let step = ComputedStep { backend, model, computed, starts, scheduled: &scheduled };
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

    /// The batch of a step that no graph computes.
    fn batch(&self, scheduled: &[Scheduled<'_>]) -> Result<ForwardBatch> {
        if self.model.is_bidirectional() {
            return self.whole_prompts(scheduled);
        }
        let spec = self.kv_cache.spec();
        let max_blocks_per_seq = batch::max_blocks(scheduled, spec.block_size);
        let lists = batch::lists(scheduled, spec, max_blocks_per_seq).into_iter();
        let lists = lists.map(|list| self.backend.indices(list)).collect::<Result<_>>()?;
        Ok(batch::forward_batch(lists, max_blocks_per_seq))
    }

    /// The batch of a model that reads whole prompts, and has no cache for slots and blocks to be in.
    fn whole_prompts(&self, scheduled: &[Scheduled<'_>]) -> Result<ForwardBatch> {
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
