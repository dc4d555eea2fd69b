//! Sampling where the logits are: what the sampler makes of a row, made by a device to the same bits.
//!
//! ```text
//!   logits ─┬─► edit_logits ─► sample ─┬─► token
//!           │                          └─► no finite logit: None, the host's sampler says what is wrong with the row
//!           └─► logprobs of the token and of the likeliest
//! ```
//!
//! Two numbers a row come to the host, and as many more as it reports.

use rustllm_ops::{Backend, DeviceSampler, LogitsEdits, LogprobsRequest, Result, SamplingRow, Tensor};

use crate::sampler::{SampledToken, SamplerInput, TokenLogprob, logprobs_of_device};

/// Whether a device can do all that a row asks for: not where the whole vocabulary is reported, or logits that were changed.
pub(crate) fn can_sample(sampler: &dyn DeviceSampler, input: &SamplerInput<'_>) -> bool {
    input.params.logprobs.is_none_or(|top| !input.logprobs_mode.is_processed() && can_report(sampler, top))
}

fn can_report(sampler: &dyn DeviceSampler, top: i32) -> bool {
    usize::try_from(top).is_ok_and(|top| top <= sampler.max_logprobs())
}

/// Samples a token of each row of `logits`, with `edits` of each. `None` for a row that nothing can be drawn from.
pub(crate) fn sample(
    (backend, sampler): (&dyn Backend, &dyn DeviceSampler),
    logits: &Tensor,
    inputs: &[SamplerInput<'_>],
    edits: &[LogitsEdits<'_>],
) -> Result<Vec<Option<SampledToken>>> {
    let rows: Vec<SamplingRow> = inputs.iter().map(SamplerInput::sampling_row).collect();
    let rows = backend.indices(SamplingRow::pack(&rows))?;
    let drawn = match inputs.iter().any(SamplerInput::edits_logits) {
        true => sampler.sample(&sampler.edit_logits(logits, edits)?, &rows)?,
        false => sampler.sample(logits, &rows)?,
    };
    let mut tokens = Vec::with_capacity(inputs.len());
    backend.read_rows(&drawn, &mut |_, drawn| tokens.push(token(drawn)))?;
    let logprobs = report(sampler, logits, inputs, &tokens)?;
    let sampled = tokens.into_iter().zip(logprobs);
    Ok(sampled.map(|(token, logprobs)| token.map(|token_id| SampledToken { token_id, logprobs })).collect())
}

/// Logprobs of the rows that ask for some and have a token.
fn report(
    sampler: &dyn DeviceSampler,
    logits: &Tensor,
    inputs: &[SamplerInput<'_>],
    tokens: &[Option<u32>],
) -> Result<Vec<Option<Vec<TokenLogprob>>>> {
    let top = |row: usize| inputs[row].params.logprobs.map(size);
    let asking = (0..inputs.len()).filter(|row| top(*row).is_some());
    let requests: Vec<_> = asking.filter_map(|row| Some(request(row, tokens[row]?))).collect();
    let most = (0..inputs.len()).filter_map(top).max().unwrap_or(0);
    let mut reported = vec![None; inputs.len()];
    for (request, found) in requests.iter().zip(sampler.logprobs(logits, &requests, most)?) {
        let row = request.row as usize;
        let normalised = inputs[row].logprobs_mode.is_normalised();
        reported[row] = top(row).map(|top| logprobs_of_device(&found, request.token_id, top, normalised));
    }
    Ok(reported)
}

/// The token of a row that a device has drawn, or found the likeliest. `None` if there was nothing to draw from.
pub(crate) fn token(drawn: &[f32]) -> Option<u32> {
    drawn[1].is_finite().then_some(drawn[0] as u32)
}

/// Logprobs of a prompt: row i of `logits` predicts `next_tokens[i]`. `None` for a row that is no distribution, and for all where a
/// device cannot report as many.
pub(crate) fn prompt_logprobs(
    sampler: &dyn DeviceSampler,
    logits: &Tensor,
    next_tokens: &[u32],
    top: i32,
) -> Result<Vec<Option<Vec<TokenLogprob>>>> {
    let exist = next_tokens.iter().all(|token_id| (*token_id as usize) < logits.cols());
    if !exist || !can_report(sampler, top) {
        return Ok(vec![None; next_tokens.len()]);
    }
    let requests: Vec<_> = next_tokens.iter().enumerate().map(|(row, token_id)| request(row, *token_id)).collect();
    let found = sampler.logprobs(logits, &requests, size(top))?;
    let report = |(found, token_id): (_, &u32)| logprobs_of_device(found, *token_id, size(top), true);
    Ok(found.iter().zip(next_tokens).map(|row| row.0.largest.is_finite().then(|| report(row))).collect())
}

fn request(row: usize, token_id: u32) -> LogprobsRequest {
    LogprobsRequest { row: row as u32, token_id }
}

/// A number of logprobs that [`can_report`] has passed.
fn size(top: i32) -> usize {
    usize::try_from(top).unwrap_or(0)
}
