//! What a step makes of the sequences that generate: their next tokens, and the logprobs of their prompts.
//!
//! ```text
//!   hidden ─► last row of each sequence that samples ─► Model::predict
//!                ├─► logits ─► Sampler, on all threads       requests that draw, mask, penalize, bias or report
//!                └─► argmax ─► the token                     greedy requests that want nothing else
//!                       └─► no finite logit: through the sampler after all, which says what is wrong with the row
//! ```
//!
//! Both ways lead to the same token, so that a request's output does not depend on which of them the others take.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustllm_core::{SeqId, Sequence};
use rustllm_models::Model;
use rustllm_ops::{Backend, Predictions, Result, Tensor};

use crate::PromptLogprobs;
use crate::batch::Scheduled;
use crate::model_runner::SampledRow;
use crate::sampler::{LogprobsMode, PenaltyState, SampleError, SampledToken, Sampler, SamplerInput};

/// Rows of logits held at once for prompt logprobs: a prompt of any length needs no more memory than this many.
const PROMPT_LOGPROBS_ROWS: usize = 32;

/// What the model made of a step.
#[derive(Clone, Copy)]
pub(crate) enum Computed<'a> {
    /// Hidden states of every row.
    Hidden(&'a Tensor),
    /// Logits and argmax of every row: of a step that was captured with its output projection.
    Predictions(&'a Predictions),
}

/// What the model made of a step, and whose rows they are.
#[derive(Clone, Copy)]
pub(crate) struct ComputedStep<'a> {
    pub backend: &'a dyn Backend,
    pub model: &'a dyn Model,
    pub computed: Computed<'a>,
    /// The first row of each sequence, then the number of rows.
    pub starts: &'a [u32],
    pub scheduled: &'a [Scheduled<'a>],
}

impl ComputedStep<'_> {
    /// Logits of the first `num_logits` of some rows of the batch, the likeliest token of the others.
    fn predict(&self, rows: Vec<u32>, num_logits: usize) -> Result<Predictions> {
        match self.computed {
            Computed::Hidden(hidden) => self.model.predict(self.backend, &self.pick(hidden, &rows)?, num_logits),
            Computed::Predictions(all) => {
                let (with_logits, others) = rows.split_at(num_logits);
                Ok(Predictions {
                    logits: self.pick(&all.logits, with_logits)?,
                    argmax: self.pick(&all.argmax, others)?,
                })
            }
        }
    }

    /// Some rows of a tensor: a view where they are neighbours.
    fn pick(&self, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
        let first = rows.first().copied().unwrap_or(0);
        match rows.iter().copied().eq(first..first + rows.len() as u32) {
            true => x.row_range(first as usize, rows.len()),
            false => self.backend.gather_rows(x, &self.backend.indices(rows.to_vec())?),
        }
    }

    /// The row of a sequence's last token.
    fn last_row(&self, index: usize) -> u32 {
        self.starts[index + 1] - 1
    }
}

/// Samples, with what that needs from step to step.
#[derive(Debug)]
pub(crate) struct SamplingRunner {
    samplers: Samplers,
    eos_token_ids: Vec<u32>,
    logprobs_mode: LogprobsMode,
    /// What is kept of unfinished sequences, of those that need it.
    states: HashMap<SeqId, SequenceState>,
}

#[derive(Debug, Default)]
struct SequenceState {
    penalties: PenaltyState,
    /// While the prompt is being computed.
    prompt_logprobs: PromptLogprobs,
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

/// A thread that panicked leaves nothing half done here: values are replaced whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl SamplingRunner {
    pub fn new(eos_token_ids: Vec<u32>, logprobs_mode: LogprobsMode) -> Self {
        Self { samplers: Samplers::default(), eos_token_ids, logprobs_mode, states: HashMap::new() }
    }

    /// Forgets what is kept of a sequence that has ended.
    pub fn forget(&mut self, seq_id: SeqId) {
        self.states.remove(&seq_id);
    }

    /// Fills `rows`, one for each scheduled sequence.
    pub fn run(&mut self, step: &ComputedStep<'_>, rows: &mut [SampledRow]) -> Result<()> {
        self.sample(step, rows)?;
        for (i, (entry, sequence)) in step.scheduled.iter().enumerate() {
            // They come with the first token; a sequence that resumes after that has brought them already.
            if sequence.computes_prompt_logprobs() && sequence.num_output_tokens() == 0 {
                match self.score_prompt(step, i)? {
                    Ok(prompt_logprobs) if entry.samples => rows[i].prompt_logprobs = Some(prompt_logprobs),
                    Ok(partial) => self.states.entry(entry.seq_id).or_default().prompt_logprobs = partial,
                    Err(error) => rows[i].sampled = Some(Err(error)),
                }
            }
        }
        Ok(())
    }

    fn input<'a>(&'a self, sequence: &'a Sequence) -> SamplerInput<'a> {
        SamplerInput {
            params: sequence.params(),
            prompt_token_ids: sequence.prompt_token_ids(),
            output_token_ids: sequence.output_token_ids(),
            eos_token_ids: &self.eos_token_ids,
            seed: sequence.seed(),
            logprobs_mode: self.logprobs_mode,
        }
    }

    /// Whether nothing is wanted of these sequences but the likeliest tokens.
    pub fn takes_argmax_only(&self, scheduled: &[Scheduled<'_>]) -> bool {
        scheduled.iter().all(|(_, sequence)| self.input(sequence).wants_argmax_only())
    }

    /// Samples a token for every sequence whose last token was in the batch.
    fn sample(&mut self, step: &ComputedStep<'_>, rows: &mut [SampledRow]) -> Result<()> {
        let sampling = (0..step.scheduled.len()).filter(|i| step.scheduled[*i].0.samples);
        let (greedy, others): (Vec<usize>, Vec<usize>) =
            sampling.partition(|i| self.input(step.scheduled[*i].1).wants_argmax_only());
        if greedy.is_empty() && others.is_empty() {
            return Ok(());
        }
        let last_rows = others.iter().chain(&greedy).map(|i| step.last_row(*i)).collect();
        let predictions = step.predict(last_rows, others.len())?;
        self.sample_logits(step, &predictions.logits, &others, rows)?;
        let mut undecided = Vec::new();
        step.backend.read_rows(&predictions.argmax, &mut |row, argmax| match argmax[1].is_finite() {
            true => rows[greedy[row]].sampled = Some(Ok(SampledToken { token_id: argmax[0] as u32, logprobs: None })),
            false => undecided.push(greedy[row]),
        })?;
        if undecided.is_empty() {
            return Ok(());
        }
        let last_rows = undecided.iter().map(|i| step.last_row(*i)).collect();
        let logits = step.predict(last_rows, undecided.len())?.logits;
        self.sample_logits(step, &logits, &undecided, rows)
    }

    /// Samples from `logits`, whose rows are those of the sequences `indices`.
    fn sample_logits(
        &mut self,
        step: &ComputedStep<'_>,
        logits: &Tensor,
        indices: &[usize],
        rows: &mut [SampledRow],
    ) -> Result<()> {
        let seq_id = |i: usize| step.scheduled[i].0.seq_id;
        let penalties = |i: &usize| mem::take(&mut self.states.entry(seq_id(*i)).or_default().penalties);
        let jobs: Vec<_> = indices.iter().map(penalties).map(|penalties| Mutex::new((penalties, None))).collect();
        step.backend.visit_rows(logits, &|row, logits| {
            let input = self.input(step.scheduled[indices[row]].1);
            let (penalties, sampled) = &mut *lock(&jobs[row]);
            *sampled = Some(self.samplers.with(|sampler| sampler.sample(logits, &input, penalties)));
        })?;
        for (i, job) in indices.iter().zip(jobs) {
            let (penalties, sampled) = job.into_inner().unwrap_or_else(PoisonError::into_inner);
            rows[*i].sampled = sampled;
            self.states.entry(seq_id(*i)).or_default().penalties = penalties;
        }
        Ok(())
    }

    /// The logprobs of a prompt's tokens up to and including those that this chunk of it predicts.
    ///
    /// ```text
    ///   position   0    1    2    3 │  4    5          chunk = positions 0..4 of a prompt of 6
    ///   entry     None  •    •    • │  •               row p scores token p + 1: entries 1..=4
    /// ```
    fn score_prompt(
        &mut self,
        step: &ComputedStep<'_>,
        index: usize,
    ) -> Result<std::result::Result<PromptLogprobs, SampleError>> {
        let (entry, sequence) = step.scheduled[index];
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
            let wanted = (from..to).map(|position| step.starts[index] + (position - start) as u32).collect();
            let logits = step.predict(wanted, to - from)?.logits;
            let score = |row: usize, logits: &[f32]| {
                self.samplers.with(|sampler| sampler.prompt_logprobs(logits, prompt[from + row + 1], top))
            };
            let scored: Vec<_> = (from..to).map(|_| Mutex::new(None)).collect();
            step.backend.visit_rows(&logits, &|row, logits| *lock(&scored[row]) = Some(score(row, logits)))?;
            for logprobs in scored.iter().filter_map(|scored| lock(scored).take()) {
                match logprobs {
                    Ok(logprobs) => entries.push(Some(logprobs)),
                    Err(error) => failed = Some(error),
                }
            }
        }
        Ok(failed.map_or(Ok(entries), Err))
    }
}
