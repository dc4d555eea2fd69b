use std::collections::HashMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustllm_core::{BlockId, PoolingTask, ScheduledSequence, Scheduler, SchedulerOutput, SeqId, Sequence};
use rustllm_models::{ForwardBatch, ForwardContext, Model};
use rustllm_ops::{AttentionMetadata, Backend, GroupMetadata, Indices, KvCache, Result, Tensor};

use crate::PromptLogprobs;
use crate::pooling::{NotFinite, Pooled, PoolingRunner};
use crate::sampler::{LogprobsMode, PenaltyState, SampleError, SampledToken, Sampler, SamplerInput};

/// Rows of logits held at once for prompt logprobs: a prompt of any length needs no more memory than this many.
const PROMPT_LOGPROBS_ROWS: usize = 32;

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
    samplers: Samplers,
    /// For a model that is pooled.
    pooling: Option<PoolingRunner>,
    eos_token_ids: Vec<u32>,
    logprobs_mode: LogprobsMode,
    /// What is kept of unfinished sequences from step to step, for those that need it.
    states: HashMap<SeqId, SequenceState>,
}

/// As many samplers as ever sampled at once: one for each thread.
#[derive(Debug, Default)]
struct Samplers(Mutex<Vec<Sampler>>);

impl Samplers {
    fn with<T>(&self, sample: impl FnOnce(&mut Sampler) -> T) -> T {
        let mut sampler = lock(&self.0).pop().unwrap_or_default();
        let sampled = sample(&mut sampler);
        lock(&self.0).push(sampler);
        sampled
    }
}

/// The positions that a step computes.
fn span(entry: &ScheduledSequence) -> Range<usize> {
    entry.num_computed_tokens..entry.num_computed_tokens + entry.num_tokens
}

/// A thread that panicked leaves nothing half done here: values are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct SequenceState {
    penalties: PenaltyState,
    /// While the prompt is being computed.
    prompt_logprobs: PromptLogprobs,
}

impl ModelRunner {
    pub fn new(
        backend: Arc<dyn Backend>,
        model: Box<dyn Model>,
        kv_cache: KvCache,
        pooling: Option<PoolingRunner>,
        eos_token_ids: Vec<u32>,
        logprobs_mode: LogprobsMode,
    ) -> Self {
        Self {
            backend,
            model,
            kv_cache,
            samplers: Samplers::default(),
            pooling,
            eos_token_ids,
            logprobs_mode,
            states: HashMap::new(),
        }
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
        self.sample(&hidden, starts, &scheduled, &mut rows)?;
        for (i, (entry, sequence)) in scheduled.iter().enumerate() {
            // They come with the first token; a sequence that resumes after that has brought them already.
            if sequence.computes_prompt_logprobs() && sequence.num_output_tokens() == 0 {
                match self.score_prompt(&hidden, starts[i], entry, sequence)? {
                    Ok(prompt_logprobs) if entry.samples => rows[i].prompt_logprobs = Some(prompt_logprobs),
                    Ok(partial) => self.states.entry(entry.seq_id).or_default().prompt_logprobs = partial,
                    Err(error) => rows[i].sampled = Some(Err(error)),
                }
            }
        }
        Ok(rows)
    }

    /// Whether a pooling task reads more of a prompt than its last row.
    pub fn reads_every_row(&self, task: PoolingTask) -> bool {
        self.pooling.as_ref().is_some_and(|pooling| pooling.reads_every_row(task))
    }

    /// Forgets what is kept of a sequence that has ended.
    pub fn forget(&mut self, seq_id: SeqId) {
        self.states.remove(&seq_id);
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

    /// Samples a token for every sequence whose last token was in the batch.
    fn sample(
        &mut self,
        hidden: &Tensor,
        starts: &[u32],
        scheduled: &[(&ScheduledSequence, &Sequence)],
        rows: &mut [SampledRow],
    ) -> Result<()> {
        let sampling: Vec<usize> = (0..scheduled.len()).filter(|i| scheduled[*i].0.samples).collect();
        if sampling.is_empty() {
            return Ok(());
        }
        let last_rows = sampling.iter().map(|i| starts[i + 1] - 1).collect();
        let logits = self.logits(hidden, self.backend.indices(last_rows)?)?;
        let penalties = |i: &usize| mem::take(&mut self.states.entry(scheduled[*i].0.seq_id).or_default().penalties);
        let jobs: Vec<_> = sampling.iter().map(penalties).map(|penalties| Mutex::new((penalties, None))).collect();
        self.backend.visit_rows(&logits, &|row, logits| {
            let sequence = scheduled[sampling[row]].1;
            let input = SamplerInput {
                params: sequence.params(),
                prompt_token_ids: sequence.prompt_token_ids(),
                output_token_ids: sequence.output_token_ids(),
                eos_token_ids: &self.eos_token_ids,
                seed: sequence.seed(),
                logprobs_mode: self.logprobs_mode,
            };
            let (penalties, sampled) = &mut *lock(&jobs[row]);
            *sampled = Some(self.samplers.with(|sampler| sampler.sample(logits, &input, penalties)));
        })?;
        for (i, job) in sampling.into_iter().zip(jobs) {
            let (penalties, sampled) = job.into_inner().unwrap_or_else(PoisonError::into_inner);
            rows[i].sampled = sampled;
            self.states.entry(scheduled[i].0.seq_id).or_default().penalties = penalties;
        }
        Ok(())
    }

    /// The logprobs of the prompt's tokens up to and including those that this chunk of it predicts.
    ///
    /// ```text
    ///   position   0    1    2    3 │  4    5          chunk = positions 0..4 of a prompt of 6
    ///   entry     None  •    •    • │  •               row p scores token p + 1: entries 1..=4
    /// ```
    fn score_prompt(
        &mut self,
        hidden: &Tensor,
        first_row: u32,
        entry: &ScheduledSequence,
        sequence: &Sequence,
    ) -> Result<std::result::Result<PromptLogprobs, SampleError>> {
        let prompt = sequence.prompt_token_ids();
        let top = sequence.params().prompt_logprobs.unwrap_or(0);
        let start = entry.num_computed_tokens;
        let end = (start + entry.num_tokens).min(prompt.len() - 1);
        let state = self.states.entry(entry.seq_id).or_default();
        let mut entries = mem::take(&mut state.prompt_logprobs);
        entries.resize_with(entries.len().max(1), || None);
        // A preempted prompt starts over.
        entries.truncate(start + 1);
        let mut failed = None;
        for from in (start..end).step_by(PROMPT_LOGPROBS_ROWS) {
            let to = (from + PROMPT_LOGPROBS_ROWS).min(end);
            let wanted = (from..to).map(|position| first_row + (position - start) as u32).collect();
            let logits = self.logits(hidden, self.backend.indices(wanted)?)?;
            let score = |row: usize, logits: &[f32]| {
                self.samplers.with(|sampler| sampler.prompt_logprobs(logits, prompt[from + row + 1], top))
            };
            let scored: Vec<_> = (from..to).map(|_| Mutex::new(None)).collect();
            self.backend.visit_rows(&logits, &|row, logits| *lock(&scored[row]) = Some(score(row, logits)))?;
            for logprobs in scored.iter().filter_map(|scored| lock(scored).take()) {
                match logprobs {
                    Ok(logprobs) => entries.push(Some(logprobs)),
                    Err(error) => failed = Some(error),
                }
            }
        }
        Ok(failed.map_or(Ok(entries), Err))
    }

    fn logits(&self, hidden: &Tensor, rows: Indices) -> Result<Tensor> {
        self.model.logits(&*self.backend, &self.backend.gather_rows(hidden, &rows)?)
    }
}
