//! What a step makes of the sequences that generate: their next tokens, and the logprobs of their prompts.
//!
//! ```text
//!   hidden ─► last row of each sequence that samples ─► Model::predict
//!                ├─► logits ─┬─► the device's sampler        requests that draw, mask, penalize, bias or report
//!                │           └─► Sampler, on all threads     those of a device that has none, or cannot report as much
//!                └─► argmax ─► the token                     greedy requests that want nothing else; of a captured step
//!                                                            those that draw and want nothing else, too
//!
//!   no finite logit: through the sampler after all, which says what is wrong with the row
//! ```
//!
//! All ways lead to the same token, so that a request's output does not depend on which of them the others take.

use std::collections::HashMap;
use std::mem;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustllm_core::{SeqId, Sequence};
use rustllm_models::Model;
use rustllm_ops::{Backend, DeviceSampler, LogitsEdits, Predictions, Result, SamplingRow, Tensor};

use crate::PromptLogprobs;
use crate::batch::{self, Scheduled};
use crate::device_sampling;
use crate::model_runner::SampledRow;
use crate::sampler::{LogprobsMode, PenaltyState, SampleError, SampledToken, Sampler, SamplerInput, TokenLogprob};

/// Rows of logits held at once for prompt logprobs: a prompt of any length needs no more memory than this many.
const PROMPT_LOGPROBS_ROWS: usize = 32;

/// What the model made of a step.
#[derive(Clone, Copy)]
pub(crate) enum Computed<'a> {
    /// Hidden states of every row.
    Hidden(&'a Tensor),
    /// Logits of every row, and its likeliest token or the one drawn: of a step that was captured with its output projection.
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
            Computed::Hidden(hidden) => {
                self.model.predict(self.backend, &pick(self.backend, hidden, &rows)?, num_logits)
            }
            Computed::Predictions(all) => {
                let (with_logits, others) = rows.split_at(num_logits);
                Ok(Predictions {
                    logits: pick(self.backend, &all.logits, with_logits)?,
                    argmax: pick(self.backend, &all.argmax, others)?,
                })
            }
        }
    }

    /// Whether the step has a row's token beside its logits.
    fn decides(&self, input: &SamplerInput<'_>) -> bool {
        match self.computed {
            Computed::Predictions(_) => is_decided_by_graph(self.backend, input),
            Computed::Hidden(_) => input.wants_argmax_only(),
        }
    }

    /// The row of a sequence's last token.
    fn last_row(&self, index: usize) -> u32 {
        self.starts[index + 1] - 1
    }
}

/// Whether a captured step has the row's token beside its logits: drawn where the device can, else the likeliest.
fn is_decided_by_graph(backend: &dyn Backend, input: &SamplerInput<'_>) -> bool {
    match backend.sampler() {
        Some(_) => input.wants_token_only(),
        None => input.wants_argmax_only(),
    }
}

/// Some rows of a tensor: a view where they are neighbours.
fn pick(backend: &dyn Backend, x: &Tensor, rows: &[u32]) -> Result<Tensor> {
    let first = rows.first().copied().unwrap_or(0);
    match rows.iter().copied().eq(first..first + rows.len() as u32) {
        true => x.row_range(first as usize, rows.len()),
        false => backend.gather_rows(x, &backend.indices(rows.to_vec())?),
    }
}

/// Samples, with what that needs from step to step.
#[derive(Debug)]
pub(crate) struct SamplingRunner {
    samplers: Samplers,
    rules: Rules,
    /// What is kept of unfinished sequences, of those that need it.
    states: HashMap<SeqId, SequenceState>,
}

/// What is the same for all sequences.
#[derive(Debug)]
struct Rules {
    eos_token_ids: Vec<u32>,
    logprobs_mode: LogprobsMode,
}

impl Rules {
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
        let rules = Rules { eos_token_ids, logprobs_mode };
        Self { samplers: Samplers::default(), rules, states: HashMap::new() }
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

    /// What a device draws each row with, as part of the step; `None` if it draws none. A row that wants more than a token counts
    /// as greedy here, and is sampled from the step's logits.
    pub fn drawn_rows(&self, backend: &dyn Backend, scheduled: &[Scheduled<'_>]) -> Option<Vec<SamplingRow>> {
        backend.sampler()?;
        let row = |(entry, sequence): &Scheduled<'_>| {
            let input = self.rules.input(sequence);
            // The token before it may not be known yet, but its place is.
            let row = SamplingRow { position: batch::span(entry).end as u64, ..input.sampling_row() };
            if input.wants_token_only() { row } else { SamplingRow::GREEDY }
        };
        let rows: Vec<SamplingRow> = scheduled.iter().map(row).collect();
        rows.iter().any(|row| row.inverse_temperature > 0.0).then_some(rows)
    }

    /// Whether nothing is wanted of these sequences but the tokens that a captured step has beside its logits. Once it is so it stays
    /// so, whatever the tokens are: of all that a sequence wants, only `min_tokens` changes, and comes to an end.
    pub fn are_decided_by_graph(&self, backend: &dyn Backend, scheduled: &[Scheduled<'_>]) -> bool {
        scheduled.iter().all(|(_, sequence)| is_decided_by_graph(backend, &self.rules.input(sequence)))
    }

    /// Samples a token for every sequence whose last token was in the batch.
    fn sample(&mut self, step: &ComputedStep<'_>, rows: &mut [SampledRow]) -> Result<()> {
        let input = |i: &usize| self.rules.input(step.scheduled[*i].1);
        let sampling = (0..step.scheduled.len()).filter(|i| step.scheduled[*i].0.samples);
        let (decided, others): (Vec<usize>, Vec<usize>) = sampling.partition(|i| step.decides(&input(i)));
        let can_sample =
            |i: &usize| step.backend.sampler().is_some_and(|it| device_sampling::can_sample(it, &input(i)));
        let (on_device, on_host): (Vec<usize>, Vec<usize>) = others.into_iter().partition(can_sample);
        if decided.is_empty() && on_device.is_empty() && on_host.is_empty() {
            return Ok(());
        }
        let num_logits = on_device.len() + on_host.len();
        let last_rows = on_device.iter().chain(&on_host).chain(&decided).map(|i| step.last_row(*i)).collect();
        let predictions = step.predict(last_rows, num_logits)?;
        let mut undecided = Vec::new();
        if let Some(sampler) = step.backend.sampler().filter(|_| !on_device.is_empty()) {
            let logits = predictions.logits.row_range(0, on_device.len())?;
            undecided = self.sample_on_device(sampler, step, &logits, &on_device, rows)?;
        }
        let logits = predictions.logits.row_range(on_device.len(), on_host.len())?;
        self.sample_on_host(step, &logits, &on_host, rows)?;
        step.backend.read_rows(&predictions.argmax, &mut |row, drawn| match device_sampling::token(drawn) {
            Some(token_id) => rows[decided[row]].sampled = Some(Ok(SampledToken { token_id, logprobs: None })),
            None => undecided.push(decided[row]),
        })?;
        if undecided.is_empty() {
            return Ok(());
        }
        let last_rows = undecided.iter().map(|i| step.last_row(*i)).collect();
        let logits = step.predict(last_rows, undecided.len())?.logits;
        self.sample_on_host(step, &logits, &undecided, rows)
    }

    /// Samples from `logits`, whose rows are those of the sequences `indices`; returns those with nothing to draw from.
    fn sample_on_device(
        &mut self,
        sampler: &dyn DeviceSampler,
        step: &ComputedStep<'_>,
        logits: &Tensor,
        indices: &[usize],
        rows: &mut [SampledRow],
    ) -> Result<Vec<usize>> {
        let inputs: Vec<_> = indices.iter().map(|i| self.rules.input(step.scheduled[*i].1)).collect();
        let edits = indices.iter().zip(&inputs).map(|(i, input)| match input.edits_logits() {
            true => input.edits(&mut self.states.entry(step.scheduled[*i].0.seq_id).or_default().penalties),
            false => LogitsEdits::default(),
        });
        let edits: Vec<LogitsEdits<'_>> = edits.collect();
        let sampled = device_sampling::sample((step.backend, sampler), logits, &inputs, &edits)?;
        let mut undecided = Vec::new();
        for (i, sampled) in indices.iter().zip(sampled) {
            match sampled {
                Some(token) => rows[*i].sampled = Some(Ok(token)),
                None => undecided.push(*i),
            }
        }
        Ok(undecided)
    }

    /// Samples from `logits`, whose rows are those of the sequences `indices`.
    fn sample_on_host(
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
            let input = self.rules.input(step.scheduled[indices[row]].1);
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
            for logprobs in self.score(step.backend, &logits, &prompt[from + 1..=to], top)? {
                match logprobs {
                    Ok(logprobs) => entries.push(Some(logprobs)),
                    Err(error) => failed = Some(error),
                }
            }
        }
        Ok(failed.map_or(Ok(entries), Err))
    }

    /// The logprobs of `next_tokens`, each predicted by a row of `logits`.
    fn score(&self, backend: &dyn Backend, logits: &Tensor, next_tokens: &[u32], top: i32) -> Result<Vec<ScoredToken>> {
        let mut scored: Vec<Option<ScoredToken>> = match backend.sampler() {
            Some(sampler) => {
                let found = device_sampling::prompt_logprobs(sampler, logits, next_tokens, top)?;
                found.into_iter().map(|logprobs| logprobs.map(Ok)).collect()
            }
            None => next_tokens.iter().map(|_| None).collect(),
        };
        let left: Vec<u32> =
            (0..next_tokens.len()).filter(|row| scored[*row].is_none()).map(|row| row as u32).collect();
        let jobs: Vec<_> = left.iter().map(|_| Mutex::new(None)).collect();
        backend.visit_rows(&pick(backend, logits, &left)?, &|at, logits| {
            let next_token = next_tokens[left[at] as usize];
            *lock(&jobs[at]) = Some(self.samplers.with(|sampler| sampler.prompt_logprobs(logits, next_token, top)));
        })?;
        for (row, job) in left.iter().zip(jobs) {
            scored[*row as usize] = job.into_inner().unwrap_or_else(PoisonError::into_inner);
        }
        Ok(scored.into_iter().flatten().collect())
    }
}

/// A prompt token's logprobs, or why there are none.
type ScoredToken = std::result::Result<Vec<TokenLogprob>, SampleError>;

#[cfg(test)]
mod tests;
