//! The processors that may change which token is the likeliest: masks, bias and penalties.

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
    ban_words(row, &params.bad_words_token_ids, input.output_token_ids);
    if is_below_min_tokens(input) {
        mask(row, input.eos_token_ids);
        mask(row, &params.stop_token_ids);
    }
    add_bias(row, &params.logit_bias);
    if penalties::are_on(params) {
        penalties::apply(row, params, input.prompt_token_ids, input.output_token_ids, penalty_state);
    }
    true
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

/// Bans the last token of every word whose other tokens are what the output ends with.
fn ban_words(row: &mut [f32], words: &[Vec<u32>], output_token_ids: &[u32]) {
    for word in words {
        if let Some((last, prefix)) = word.split_last()
            && output_token_ids.ends_with(prefix)
        {
            mask(row, &[*last]);
        }
    }
}

fn mask(row: &mut [f32], token_ids: &[u32]) {
    for &token_id in token_ids {
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
