//! The processors that may change which token is the likeliest: masks, bias and penalties.

use rustllm_ops::LogitsEdits;

use super::{PenaltyState, SamplerInput, penalties};

/// Whether `input` asks for any processor.
pub(super) fn are_on(input: &SamplerInput<'_>) -> bool {
    let params = input.params;
    let masked = params.allowed_token_ids.is_some() || !params.bad_words_token_ids.is_empty();
    masked || is_below_min_tokens(input) || !params.logit_bias.is_empty() || penalties::are_on(params)
}

fn is_below_min_tokens(input: &SamplerInput<'_>) -> bool {
    input.output_token_ids.len() < input.params.min_tokens as usize
}

/// Copies `logits` to `row` and applies what `input` asks for, in vLLM's order: allowed_token_ids, bad_words,
/// min_tokens, logit_bias, penalties. Returns false, and leaves `row` alone, when it asks for nothing.
///
/// Token ids beyond the row are ignored: no token of that id can be sampled.
pub(super) fn apply(
    logits: &[f32],
    input: &SamplerInput<'_>,
    penalty_state: &mut PenaltyState,
    row: &mut Vec<f32>,
) -> bool {
    if !are_on(input) {
        return false;
    }
    let params = input.params;
    row.clear();
    match &params.allowed_token_ids {
        Some(allowed) => allow_only(logits, allowed, row),
        None => row.extend_from_slice(logits),
    }
    mask(row, banned(input));
    add_bias(row, &params.logit_bias);
    if penalties::are_on(params) {
        penalties::apply(row, params, input.prompt_token_ids, input.output_token_ids, penalty_state);
    }
    true
}

/// What [`apply`] would do, for a device to do.
pub(super) fn edits<'a>(input: &SamplerInput<'a>, penalty_state: &mut PenaltyState) -> LogitsEdits<'a> {
    LogitsEdits {
        allowed: input.params.allowed_token_ids.as_deref(),
        banned: banned(input).collect(),
        bias: &input.params.logit_bias,
        penalties: penalties::are_on(input.params).then(|| penalties::of(input, penalty_state)),
    }
}

/// `changed`, kept within float32's finite range; a masked token (`original` is `-inf`) stays masked. An extreme bias
/// or penalty thus forces or buries a token, and never makes a logit infinite.
pub(super) fn saturate(original: f32, changed: f32) -> f32 {
    if original == f32::NEG_INFINITY { original } else { changed.clamp(f32::MIN, f32::MAX) }
}

fn allow_only(logits: &[f32], allowed: &[u32], row: &mut Vec<f32>) {
    row.resize(logits.len(), f32::NEG_INFINITY);
    for &token_id in allowed {
        if let Some(logit) = logits.get(token_id as usize) {
            row[token_id as usize] = *logit;
        }
    }
}

/// The tokens that may not come next: the last of every bad word whose other tokens are what the output ends with, and below
/// min_tokens those that would end the sequence.
fn banned<'a>(input: &SamplerInput<'a>) -> impl Iterator<Item = u32> + use<'a> {
    let output = input.output_token_ids;
    let words = input.params.bad_words_token_ids.iter().filter_map(|word| word.split_last());
    let bad = words.filter(|(_, prefix)| output.ends_with(prefix)).map(|(last, _)| *last);
    let ends = is_below_min_tokens(input).then(|| input.eos_token_ids.iter().chain(&input.params.stop_token_ids));
    bad.chain(ends.into_iter().flatten().copied())
}

fn mask(row: &mut [f32], token_ids: impl Iterator<Item = u32>) {
    for token_id in token_ids {
        if let Some(logit) = row.get_mut(token_id as usize) {
            *logit = f32::NEG_INFINITY;
        }
    }
}

fn add_bias(row: &mut [f32], logit_bias: &[(u32, f32)]) {
    for &(token_id, bias) in logit_bias {
        if let Some(logit) = row.get_mut(token_id as usize) {
            *logit = saturate(*logit, *logit + bias);
        }
    }
}
