//! What a step made of the prompts that are to be pooled.
//!
//! ```text
//!   one vector, made of one row      gathered on the device when the prompt's last token is computed
//!   one vector, made of all rows     reduced on the host, row after row in order, over all steps of the prompt
//!   rows                             through the head step by step, collected
//! ```
//!
//! Nothing enters a prompt's arithmetic but its own rows, in order of position: not the batch, nor how it was cut into steps.

use std::collections::HashMap;
use std::sync::Arc;

use rustllm_core::{PoolingParams, PoolingTask, ScheduledSequence, SeqId, Sequence};
use rustllm_models::{PooledOutput, Pooler, Reduction};
use rustllm_ops::{Backend, Result, Tensor};

/// A pooling request as the engine takes it.
#[derive(Debug, Clone)]
pub struct PoolingRequest {
    /// Name of the request in outputs; must not be in use.
    pub request_id: String,
    /// The prompt, at least one token.
    pub prompt_token_ids: Arc<[u32]>,
    /// Segment of each prompt token; all in the first if `None`.
    pub token_type_ids: Option<Arc<[u32]>>,
    /// What is wanted.
    pub params: PoolingParams,
    /// Lower runs first under the priority policy.
    pub priority: i32,
    /// Requests share cached prefixes only with requests of the same salt.
    pub cache_salt: Option<String>,
}

/// What was made of a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct Pooled {
    /// One vector, or the vectors of rows one after another.
    pub values: Vec<f32>,
    /// How many vectors; `None` where there is one for the prompt.
    pub rows: Option<usize>,
    /// Elements of a vector.
    pub width: usize,
}

/// A result that is not of finite numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the model's output for this prompt is not finite")]
pub(crate) struct NotFinite;

/// The output of a task, if the model has it.
pub(crate) fn output(pooler: &Pooler, task: PoolingTask) -> Option<&PooledOutput> {
    match task {
        PoolingTask::Embed => pooler.embed.as_ref(),
        PoolingTask::Classify => pooler.classify.as_ref(),
        PoolingTask::TokenEmbed => pooler.token_embed.as_ref(),
        PoolingTask::TokenClassify => pooler.token_classify.as_ref(),
        PoolingTask::FillMask => pooler.fill_mask.as_ref(),
    }
}

/// The tasks a pooler has.
pub(crate) fn tasks(pooler: &Pooler) -> Vec<PoolingTask> {
    PoolingTask::ALL.into_iter().filter(|task| output(pooler, *task).is_some()).collect()
}

/// The rows of a prompt so far, reduced to one.
#[derive(Debug)]
struct Accumulator {
    reduction: Reduction,
    values: Vec<f64>,
    count: u32,
}

impl Accumulator {
    fn push(&mut self, row: &[f32]) {
        self.count += 1;
        let first = self.count == 1;
        self.values.resize(row.len(), 0.0);
        let weight = match self.reduction {
            Reduction::WeightedMean => f64::from(self.count),
            _ => 1.0,
        };
        for (value, element) in self.values.iter_mut().zip(row) {
            let element = f64::from(*element);
            *value = match self.reduction {
                Reduction::Cls if !first => *value,
                Reduction::Cls | Reduction::Last => element,
                // A NaN stays one: it is reported, not hidden.
                Reduction::Max if !first && (*value >= element || value.is_nan()) => *value,
                Reduction::Max => element,
                Reduction::Mean | Reduction::MeanSqrtLen | Reduction::WeightedMean => *value + weight * element,
            };
        }
    }

    fn finish(&self) -> impl Iterator<Item = f32> {
        let count = f64::from(self.count);
        let divisor = match self.reduction {
            Reduction::Cls | Reduction::Last | Reduction::Max => 1.0,
            Reduction::Mean => count,
            Reduction::MeanSqrtLen => count.sqrt(),
            Reduction::WeightedMean => count * (count + 1.0) / 2.0,
        };
        self.values.iter().map(move |value| (value / divisor) as f32)
    }
}

/// What is kept of a prompt from step to step.
#[derive(Debug, Default)]
struct Partial {
    reduced: Vec<Accumulator>,
    rows: Vec<f32>,
    num_rows: usize,
}

/// Makes of hidden states what pooling requests ask for.
#[derive(Debug)]
pub(crate) struct PoolingRunner {
    pooler: Pooler,
    partials: HashMap<SeqId, Partial>,
}

/// A scheduled sequence with its rows in the batch.
struct Member<'a> {
    /// Its place in the step.
    index: usize,
    entry: &'a ScheduledSequence,
    sequence: &'a Sequence,
    params: &'a PoolingParams,
    first_row: usize,
}

impl Member<'_> {
    fn rows(&self) -> std::ops::Range<usize> {
        self.first_row..self.first_row + self.entry.num_tokens
    }
}

/// What came of each sequence of a step: nothing for those whose prompts go on.
pub(crate) type PooledRows = Vec<Option<std::result::Result<Pooled, NotFinite>>>;

impl PoolingRunner {
    pub fn new(pooler: Pooler) -> Self {
        Self { pooler, partials: HashMap::new() }
    }

    /// Whether a task reads rows that a prefix cache does not have: any but the last.
    pub fn reads_every_row(&self, task: PoolingTask) -> bool {
        let last = |output: &PooledOutput| output.reductions == [Reduction::Last];
        !output(&self.pooler, task).is_some_and(last)
    }

    /// Forgets what is kept of a sequence that has ended.
    pub fn forget(&mut self, seq_id: SeqId) {
        self.partials.remove(&seq_id);
    }

    /// Pools a step's hidden states. `starts` has the first row of each sequence.
    pub fn pool(
        &mut self,
        backend: &dyn Backend,
        hidden: &Tensor,
        starts: &[u32],
        scheduled: &[(&ScheduledSequence, &Sequence)],
    ) -> Result<PooledRows> {
        let mut results = vec![None; scheduled.len()];
        for task in PoolingTask::ALL {
            let members: Vec<Member<'_>> = scheduled
                .iter()
                .enumerate()
                .filter_map(|(index, (entry, sequence))| {
                    let params = &sequence.pooling().filter(|pooling| pooling.params.task == task)?.params;
                    Some(Member { index, entry, sequence, params, first_row: starts[index] as usize })
                })
                .collect();
            let Some(output) = output(&self.pooler, task).filter(|_| !members.is_empty()) else { continue };
            for member in members.iter().filter(|member| member.entry.num_computed_tokens == 0) {
                // A preempted prompt starts over.
                self.partials.remove(&member.entry.seq_id);
            }
            let step = Step { backend, hidden, output, members: &members };
            match task.is_one_vector() {
                true => step.pool_vectors(&mut self.partials, &mut results)?,
                false => step.pool_rows(&mut self.partials, &mut results)?,
            }
        }
        Ok(results)
    }
}

/// One task's part of a step.
struct Step<'a> {
    backend: &'a dyn Backend,
    hidden: &'a Tensor,
    output: &'a PooledOutput,
    members: &'a [Member<'a>],
}

impl Step<'_> {
    fn pool_vectors(&self, partials: &mut HashMap<SeqId, Partial>, results: &mut PooledRows) -> Result<()> {
        let single = |member: &Member<'_>| match self.output.reductions.as_slice() {
            [Reduction::Last] if member.entry.samples => Some(member.rows().end - 1),
            [Reduction::Cls] if member.entry.samples && member.entry.num_computed_tokens == 0 => Some(member.first_row),
            _ => None,
        };
        let (gathered, reduced): (Vec<_>, Vec<_>) = self.members.iter().partition(|member| single(member).is_some());
        if !gathered.is_empty() {
            let rows = gathered.iter().filter_map(|member| single(member)).map(|row| row as u32).collect();
            let x = self.backend.gather_rows(self.hidden, &self.backend.indices(rows)?)?;
            self.finish_vectors(&x, &gathered, results)?;
        }
        if self.output.reductions != [Reduction::Last] {
            self.reduce(&reduced, partials)?;
        }
        let done: Vec<&Member<'_>> = reduced.into_iter().filter(|member| member.entry.samples).collect();
        let partials = done.iter().filter_map(|member| partials.remove(&member.entry.seq_id));
        let values: Vec<f32> = partials
            .flat_map(|partial| partial.reduced.into_iter().flat_map(|reduced| reduced.finish().collect::<Vec<_>>()))
            .collect();
        if done.is_empty() {
            return Ok(());
        }
        let x = self.backend.tensor(&values, done.len(), values.len() / done.len())?;
        self.finish_vectors(&x, &done, results)
    }

    /// Brings the step's rows into what is kept of their sequences.
    fn reduce(&self, members: &[&Member<'_>], partials: &mut HashMap<SeqId, Partial>) -> Result<()> {
        if members.is_empty() {
            return Ok(());
        }
        let rows = members.iter().flat_map(|member| member.rows()).map(|row| row as u32).collect();
        let x = self.backend.gather_rows(self.hidden, &self.backend.indices(rows)?)?;
        let mut owners = members.iter().flat_map(|member| member.rows().map(|_| member.entry.seq_id));
        self.backend.read_rows(&x, &mut |_, row| {
            let Some(owner) = owners.next() else { return };
            let partial = partials.entry(owner).or_default();
            if partial.reduced.is_empty() {
                let new = |reduction: &Reduction| Accumulator { reduction: *reduction, values: Vec::new(), count: 0 };
                partial.reduced = self.output.reductions.iter().map(new).collect();
            }
            partial.reduced.iter_mut().for_each(|reduced| reduced.push(row));
        })
    }

    fn finish_vectors(&self, x: &Tensor, members: &[&Member<'_>], results: &mut PooledRows) -> Result<()> {
        let x = self.output.forward(self.backend, x)?;
        self.backend.read_rows(&x, &mut |row, values| {
            let member = members[row];
            results[member.index] = Some(self.finish(member.params, values.to_vec(), None));
        })
    }

    fn pool_rows(&self, partials: &mut HashMap<SeqId, Partial>, results: &mut PooledRows) -> Result<()> {
        let wanted = |member: &Member<'_>, row: usize| {
            let position = member.entry.num_computed_tokens + row - member.first_row;
            let mask = member.params.mask_token_id;
            member.params.task != PoolingTask::FillMask || mask == Some(member.sequence.token_ids()[position])
        };
        let rows: Vec<(SeqId, usize)> = self
            .members
            .iter()
            .flat_map(|member| {
                member.rows().filter(move |row| wanted(member, *row)).map(|row| (member.entry.seq_id, row))
            })
            .collect();
        if !rows.is_empty() {
            let indices = self.backend.indices(rows.iter().map(|(_, row)| *row as u32).collect())?;
            let x = self.output.forward(self.backend, &self.backend.gather_rows(self.hidden, &indices)?)?;
            self.backend.read_rows(&x, &mut |row, values| {
                let partial = partials.entry(rows[row].0).or_default();
                partial.rows.extend_from_slice(values);
                partial.num_rows += 1;
            })?;
        }
        for member in self.members.iter().filter(|member| member.entry.samples) {
            let partial = partials.remove(&member.entry.seq_id).unwrap_or_default();
            results[member.index] = Some(self.finish(member.params, partial.rows, Some(partial.num_rows)));
        }
        Ok(())
    }

    /// Cuts, finishes and checks the vectors of one prompt.
    fn finish(
        &self,
        params: &PoolingParams,
        mut values: Vec<f32>,
        rows: Option<usize>,
    ) -> std::result::Result<Pooled, NotFinite> {
        let width = params.dimensions.unwrap_or(self.output.size);
        if width < self.output.size {
            values = values.chunks_exact(self.output.size).flat_map(|vector| &vector[..width]).copied().collect();
        }
        let finishes = if params.task.has_scores() { params.use_activation } else { params.normalize };
        if finishes.or(params.use_activation).unwrap_or(self.output.finishes) {
            values.chunks_exact_mut(width).for_each(|vector| self.output.finish.apply(vector));
        }
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(Pooled { values, rows, width }),
            false => Err(NotFinite),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reduced(reduction: Reduction) -> Vec<f32> {
        let mut accumulator = Accumulator { reduction, values: Vec::new(), count: 0 };
        for row in [[1.0, -2.0], [4.0, -8.0], [1.0, -2.0], [2.0, 0.0]] {
            accumulator.push(&row);
        }
        accumulator.finish().collect()
    }

    #[test]
    fn reductions() {
        assert_eq!(reduced(Reduction::Cls), [1.0, -2.0]);
        assert_eq!(reduced(Reduction::Last), [2.0, 0.0]);
        assert_eq!(reduced(Reduction::Mean), [2.0, -3.0]);
        assert_eq!(reduced(Reduction::Max), [4.0, 0.0]);
        assert_eq!(reduced(Reduction::MeanSqrtLen), [4.0, -6.0]);
        assert_eq!(reduced(Reduction::WeightedMean), [2.0, -2.4]);
    }

    #[test]
    fn a_defect_in_any_row_reaches_the_largest() {
        let mut accumulator = Accumulator { reduction: Reduction::Max, values: Vec::new(), count: 0 };
        [1.0, f32::NAN, 3.0].iter().for_each(|value| accumulator.push(&[*value]));
        assert!(accumulator.finish().all(f32::is_nan));
    }
}
