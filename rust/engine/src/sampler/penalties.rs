//! Repetition, frequency and presence penalties, and the token counts that they need.

use std::collections::HashMap;

use rustllm_core::SamplingParams;
use rustllm_ops::Penalties;

use super::SamplerInput;
use super::processors::saturate;

/// How often each token occurs in one sequence, kept between steps so that a step costs only its new tokens.
///
/// Owned by the sequence's keeper and given to every [`Sampler::sample`](super::Sampler::sample) of that sequence; a
/// new one is [`PenaltyState::default`]. It stays empty (no allocation) until a request has penalties, holds at most
/// one entry per distinct token, and catches up by itself with tokens added since it was last used. A history that
/// became *shorter* is counted afresh. What it may not see is another sequence, or a history rewritten at the same
/// length.
#[derive(Debug, Clone, Default)]
pub struct PenaltyState {
    /// Occurrences in the output of every token of the history: 0 for those of the prompt alone.
    output_counts: HashMap<u32, u32>,
    num_prompt_tokens: usize,
    num_output_tokens: usize,
}

impl PenaltyState {
    /// Brings the counts up to the given history.
    fn catch_up(&mut self, prompt_token_ids: &[u32], output_token_ids: &[u32]) {
        if self.num_prompt_tokens != prompt_token_ids.len() || self.num_output_tokens > output_token_ids.len() {
            self.output_counts.clear();
            self.output_counts.extend(prompt_token_ids.iter().map(|token_id| (*token_id, 0)));
            self.num_prompt_tokens = prompt_token_ids.len();
            self.num_output_tokens = 0;
        }
        for &token_id in &output_token_ids[self.num_output_tokens..] {
            let count = self.output_counts.entry(token_id).or_default();
            *count = count.saturating_add(1);
        }
        self.num_output_tokens = output_token_ids.len();
    }
}

/// Whether `params` ask for a penalty.
pub(super) fn are_on(params: &SamplingParams) -> bool {
    params.repetition_penalty != 1.0 || params.frequency_penalty != 0.0 || params.presence_penalty != 0.0
}

/// What [`apply`] would do, for a device to do.
pub(super) fn of(input: &SamplerInput<'_>, state: &mut PenaltyState) -> Penalties {
    state.catch_up(input.prompt_token_ids, input.output_token_ids);
    Penalties {
        repetition: input.params.repetition_penalty,
        frequency: input.params.frequency_penalty,
        presence: input.params.presence_penalty,
        counts: state.output_counts.iter().map(|(token_id, count)| (*token_id, *count)).collect(),
    }
}

/// Applies the penalties of `params` to `row`, in this order for each token that has occurred: repetition (prompt and
/// output: a positive logit is divided by it, another multiplied), then frequency times the number of occurrences in
/// the output, then presence if it occurs in the output.
pub(super) fn apply(
    row: &mut [f32],
    params: &SamplingParams,
    prompt_token_ids: &[u32],
    output_token_ids: &[u32],
    state: &mut PenaltyState,
) {
    state.catch_up(prompt_token_ids, output_token_ids);
    for (&token_id, &count) in &state.output_counts {
        let Some(logit) = row.get_mut(token_id as usize) else { continue };
        let repetition = params.repetition_penalty;
        let mut penalised = if *logit > 0.0 { *logit / repetition } else { *logit * repetition };
        if count > 0 {
            penalised -= params.frequency_penalty * count as f32;
            penalised -= params.presence_penalty;
        }
        *logit = saturate(*logit, penalised);
    }
}
