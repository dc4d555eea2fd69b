use std::sync::Arc;

use rustllm_core::{PoolingTask, ScheduledSequence, Scheduler, SchedulerOutput, SeqId};
use rustllm_models::{ForwardBatch, ForwardContext, Model};
use rustllm_ops::{AttentionMetadata, Backend, KvCache, Predictions, Result};

use crate::PromptLogprobs;
use crate::batch::{self, Scheduled};
use crate::decode_graphs::{Computes, DecodeGraphs, PendingTokens};
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
    fn of(token_id: u32) -> Self {
        Self { sampled: Some(Ok(SampledToken { token_id, logprobs: None })), ..Self::default() }
    }

    pub fn token_id(&self) -> Option<u32> {
        self.sampled.as_ref()?.as_ref().ok().map(|token| token.token_id)
    }

    pub fn error(&self) -> Option<String> {
        let pooled = self.pooled.as_ref().and_then(|pooled| pooled.as_ref().err()).map(ToString::to_string);
        pooled.or_else(|| self.sampled.as_ref()?.as_ref().err().map(ToString::to_string))
    }
}

/// How far a step has come.
#[derive(Debug)]
pub(crate) enum Begun {
    /// To its end.
    Computed(Vec<SampledRow>),
    /// To the device, which will send its tokens.
    Launched(PendingTokens),
    /// Not at all: it has to wait for the tokens of the step before it.
    Waits,
}

/// What is scheduled, with the sequences.
fn scheduled<'a>(scheduler: &'a Scheduler, entries: &'a [ScheduledSequence]) -> Vec<Scheduled<'a>> {
    let with_sequence = |entry: &'a ScheduledSequence| {
        (entry, scheduler.sequence(entry.seq_id).expect("the scheduler knows what it scheduled"))
    };
    entries.iter().map(with_sequence).collect()
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
        let scheduled = scheduled(scheduler, &output.sequences);
        match self.launch_graph(&scheduled)? {
            Some(predictions) => self.sample_predictions(&predictions, &scheduled),
            None => self.execute_eagerly(&scheduled),
        }
    }

    /// As [`execute`](Self::execute), but does not wait for the tokens of a step that a graph computes whole, nor computes one
    /// that is ahead of its tokens in another way.
    pub fn begin(&mut self, scheduler: &Scheduler, output: &SchedulerOutput) -> Result<Begun> {
        let scheduled = scheduled(scheduler, &output.sequences);
        let predictions = self.launch_graph(&scheduled)?;
        let graphs = self.backend.graphs().filter(|_| self.sampling.are_decided_by_graph(&*self.backend, &scheduled));
        match (predictions, graphs) {
            (Some(predictions), Some(graphs)) => {
                self.graphs.start_reading(graphs, &predictions.argmax).map(Begun::Launched)
            }
            _ if scheduled.iter().any(|(entry, _)| entry.is_ahead) => Ok(Begun::Waits),
            (Some(predictions), None) => self.sample_predictions(&predictions, &scheduled).map(Begun::Computed),
            (None, _) => self.execute_eagerly(&scheduled).map(Begun::Computed),
        }
    }

    /// Waits for the tokens of a step that was begun, not for those of one begun after it.
    pub fn finish(
        &mut self,
        scheduler: &Scheduler,
        output: &SchedulerOutput,
        tokens: PendingTokens,
    ) -> Result<Vec<SampledRow>> {
        let tokens = self.graphs.read(tokens)?;
        let mut rows: Vec<SampledRow> =
            tokens.iter().take(output.sequences.len()).map(|[token_id, _]| SampledRow::of(*token_id as u32)).collect();
        // Their logits are gone by now. Computed again, the sampler says what is wrong with them.
        let undecided: Vec<usize> = (0..rows.len()).filter(|row| !tokens[*row][1].is_finite()).collect();
        self.execute_known(scheduler, output, &undecided, &mut rows)?;
        Ok(rows)
    }

    /// Computes a step that was decided ahead of its tokens, now that they are known.
    pub fn execute_late(&mut self, scheduler: &Scheduler, output: &SchedulerOutput) -> Result<Vec<SampledRow>> {
        let mut rows: Vec<SampledRow> = output.sequences.iter().map(|_| SampledRow::default()).collect();
        let all: Vec<usize> = (0..rows.len()).collect();
        self.execute_known(scheduler, output, &all, &mut rows)?;
        Ok(rows)
    }

    /// Computes these `rows` of a step by tokens that are known, but for sequences that have ended meanwhile: of those nothing is
    /// wanted.
    fn execute_known(
        &mut self,
        scheduler: &Scheduler,
        output: &SchedulerOutput,
        which: &[usize],
        rows: &mut [SampledRow],
    ) -> Result<()> {
        let goes_on = |seq_id| scheduler.sequence(seq_id).is_some_and(|sequence| !sequence.is_finished());
        let wanted = which.iter().filter(|row| goes_on(output.sequences[**row].seq_id));
        let known = |row: &usize| (*row, ScheduledSequence { is_ahead: false, ..output.sequences[*row] });
        let (places, entries): (Vec<usize>, Vec<ScheduledSequence>) = wanted.map(known).unzip();
        if !entries.is_empty() {
            let computed = self.execute_eagerly(&scheduled(scheduler, &entries))?;
            places.into_iter().zip(computed).for_each(|(row, sampled)| rows[row] = sampled);
        }
        Ok(())
    }

    fn launch_graph(&mut self, scheduled: &[Scheduled<'_>]) -> Result<Option<Predictions>> {
        let computes = Computes { backend: &*self.backend, model: &*self.model, kv_cache: &self.kv_cache };
        let drawn = self.sampling.drawn_rows(&*self.backend, scheduled);
        self.graphs.predict(computes, scheduled, drawn.as_deref())
    }

    fn sample_predictions(
        &mut self,
        predictions: &Predictions,
        scheduled: &[Scheduled<'_>],
    ) -> Result<Vec<SampledRow>> {
        let starts: Vec<u32> = (0..=scheduled.len() as u32).collect();
        self.sample(Computed::Predictions(predictions), &starts, scheduled)
    }

    fn execute_eagerly(&mut self, scheduled: &[Scheduled<'_>]) -> Result<Vec<SampledRow>> {
        let batch = self.batch(scheduled)?;
        let context = ForwardContext { backend: &*self.backend, batch: &batch, kv_cache: &self.kv_cache };
        let hidden = self.model.forward(&context)?;
        let starts = batch.attention.query_start_loc.as_slice();
        let Some(pooling) = &mut self.pooling else {
            return self.sample(Computed::Hidden(&hidden), starts, scheduled);
        };
        let pooled = pooling.pool(&*self.backend, &hidden, starts, scheduled)?;
        Ok(pooled.into_iter().map(|pooled| SampledRow { pooled, ..SampledRow::default() }).collect())
    }

    fn sample(
        &mut self,
        computed: Computed<'_>,
        starts: &[u32],
        scheduled: &[Scheduled<'_>],
    ) -> Result<Vec<SampledRow>> {
        let mut rows: Vec<SampledRow> = scheduled.iter().map(|_| SampledRow::default()).collect();
        let step = ComputedStep { backend: &*self.backend, model: &*self.model, computed, starts, scheduled };
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
