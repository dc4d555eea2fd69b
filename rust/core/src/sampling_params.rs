//! Sampling parameters: vLLM's fields, defaults, ranges and messages.
//!
//! The rules stand in two functions because the answers are known at two moments: [`SamplingParams::verify`] needs
//! the numbers alone, [`SamplingParams::verify_for_model`] needs the model's vocabulary as well.

use std::collections::HashSet;
use std::fmt::Debug;

/// Largest `n` of one request. vLLM allows 16384, which lets one request fill the queue.
pub const MAX_N: u32 = 128;
/// Largest number of token sequences in `bad_words_token_ids`.
pub const MAX_BAD_WORDS: usize = 128;
/// A temperature below this samples greedily.
pub const GREEDY_TEMPERATURE: f32 = 1e-5;

/// How many ids a message about wrong ids names before it says how many more there are.
const MAX_IDS_IN_MESSAGE: usize = 10;

/// How to choose tokens, and when to stop. Text-level settings (`stop`, `detokenize`, ...) are not the core's.
#[derive(Clone, Debug, PartialEq)]
pub struct SamplingParams {
    /// Number of output sequences for the prompt, 1 to [`MAX_N`].
    pub n: u32,
    /// Subtracted from the logits of tokens that the output already holds; in [-2, 2].
    pub presence_penalty: f32,
    /// Subtracted once per occurrence in the output; in [-2, 2].
    pub frequency_penalty: f32,
    /// Divides (positive) or multiplies (negative) the logits of tokens in prompt and output; greater than zero.
    pub repetition_penalty: f32,
    /// Divides the logits; in [0, 2], below [`GREEDY_TEMPERATURE`] the most likely token is taken.
    pub temperature: f32,
    /// Smallest set of tokens whose probabilities reach this sum; in (0, 1].
    pub top_p: f32,
    /// Number of most likely tokens to choose from; 0 means all.
    pub top_k: u32,
    /// Tokens less likely than this share of the most likely token's probability are dropped; in [0, 1].
    pub min_p: f32,
    /// Seed of the request's random numbers; `None` lets the engine choose one.
    pub seed: Option<u64>,
    /// Tokens that end the sequence, besides the model's end-of-sequence tokens.
    pub stop_token_ids: Vec<u32>,
    /// Go on after an end-of-sequence token.
    pub ignore_eos: bool,
    /// Most tokens to generate for a sequence; `None` goes up to the model's length.
    pub max_tokens: Option<u32>,
    /// Tokens to generate before an end-of-sequence or stop token may end the sequence.
    pub min_tokens: u32,
    /// Log probabilities to return for each output token; -1 means the whole vocabulary.
    pub logprobs: Option<i32>,
    /// Log probabilities to return for each prompt token; -1 means the whole vocabulary.
    pub prompt_logprobs: Option<i32>,
    /// (token id, value added to its logit), each id at most once.
    pub logit_bias: Vec<(u32, f32)>,
    /// The only tokens that may be chosen; `None` allows all.
    pub allowed_token_ids: Option<Vec<u32>>,
    /// Token sequences that must not appear in the output; at most [`MAX_BAD_WORDS`].
    pub bad_words_token_ids: Vec<Vec<u32>>,
}

impl Default for SamplingParams {
    fn default() -> Self {
        Self {
            n: 1,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repetition_penalty: 1.0,
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            seed: None,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            max_tokens: Some(16),
            min_tokens: 0,
            logprobs: None,
            prompt_logprobs: None,
            logit_bias: Vec::new(),
            allowed_token_ids: None,
            bad_words_token_ids: Vec::new(),
        }
    }
}

/// A sampling parameter out of its range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ParamError {
    /// Name of the field.
    pub parameter: &'static str,
    /// The value it had.
    pub value: String,
    /// What is wrong with it, in vLLM's words where vLLM has the rule.
    pub message: String,
}

impl ParamError {
    fn new(parameter: &'static str, value: impl Into<String>, message: impl Into<String>) -> Self {
        Self { parameter, value: value.into(), message: message.into() }
    }

    /// `{parameter} {rule}, got {value}.`
    fn rule(parameter: &'static str, rule: &str, value: impl Into<String>) -> Self {
        let value = value.into();
        let message = format!("{parameter} {rule}, got {value}.");
        Self { parameter, value, message }
    }
}

/// `Err` naming the parameter, the rule it breaks and its value, unless `holds`.
fn require(holds: bool, parameter: &'static str, rule: &str, value: impl FnOnce() -> String) -> Result<(), ParamError> {
    if holds { Ok(()) } else { Err(ParamError::rule(parameter, rule, value())) }
}

/// A float as Python writes it, because the messages are read there: `3.0`, `nan`, `-inf`.
fn python_float(value: f32) -> String {
    if value.is_nan() { "nan".to_owned() } else { format!("{value:?}") }
}

impl SamplingParams {
    /// True when the most likely token is taken and no random number is drawn.
    pub fn is_greedy(&self) -> bool {
        self.temperature < GREEDY_TEMPERATURE
    }

    /// Checks every rule that needs no model.
    ///
    /// # Errors
    /// The first field out of its range. NaN and infinities are refused in every field.
    pub fn verify(&self) -> Result<(), ParamError> {
        require(self.n >= 1, "n", "must be at least 1", || self.n.to_string())?;
        require(self.n <= MAX_N, "n", &format!("must be at most {MAX_N}"), || self.n.to_string())?;
        self.verify_penalties()?;
        self.verify_distribution()?;
        self.verify_lengths()?;
        self.verify_lists()?;
        let greedy_n = !self.is_greedy() || self.n == 1;
        require(greedy_n, "n", "must be 1 when using greedy sampling", || self.n.to_string())
    }

    fn verify_penalties(&self) -> Result<(), ParamError> {
        for (name, value) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            require((-2.0..=2.0).contains(&value), name, "must be in [-2, 2]", || python_float(value))?;
        }
        let value = self.repetition_penalty;
        require(value.is_finite(), "repetition_penalty", "must be a finite number", || python_float(value))?;
        require(value > 0.0, "repetition_penalty", "must be greater than zero", || python_float(value))
    }

    fn verify_distribution(&self) -> Result<(), ParamError> {
        let value = self.temperature;
        require(value.is_finite(), "temperature", "must be a finite number", || python_float(value))?;
        require(value >= 0.0, "temperature", "must be non-negative", || python_float(value))?;
        require(value <= 2.0, "temperature", "must be in [0, 2]", || python_float(value))?;
        let value = self.top_p;
        require(value > 0.0 && value <= 1.0, "top_p", "must be in (0, 1]", || python_float(value))?;
        let value = self.min_p;
        require((0.0..=1.0).contains(&value), "min_p", "must be in [0, 1]", || python_float(value))
    }

    fn verify_lengths(&self) -> Result<(), ParamError> {
        if let Some(max_tokens) = self.max_tokens {
            require(max_tokens >= 1, "max_tokens", "must be at least 1", || max_tokens.to_string())?;
            let rule = format!("must be less than or equal to max_tokens={max_tokens}");
            require(self.min_tokens <= max_tokens, "min_tokens", &rule, || self.min_tokens.to_string())?;
        }
        for (name, value) in [("logprobs", self.logprobs), ("prompt_logprobs", self.prompt_logprobs)] {
            let value = value.unwrap_or(0);
            require(value >= -1, name, "must be non-negative or -1", || value.to_string())?;
        }
        Ok(())
    }

    fn verify_lists(&self) -> Result<(), ParamError> {
        if let Some((id, value)) = self.logit_bias.iter().find(|(_, value)| !value.is_finite()) {
            let value = python_float(*value);
            let message = format!("logit_bias values must be finite numbers, got {value} for token id {id}.");
            return Err(ParamError::new("logit_bias", value, message));
        }
        if self.allowed_token_ids.as_ref().is_some_and(Vec::is_empty) {
            return Err(ParamError::new("allowed_token_ids", "[]", "allowed_token_ids is not None and empty!"));
        }
        let num_bad_words = self.bad_words_token_ids.len();
        if num_bad_words > MAX_BAD_WORDS {
            let message = format!(
                "Too many bad words after tokenization: at most {MAX_BAD_WORDS} sequences, got {num_bad_words}."
            );
            return Err(ParamError::new("bad_words", num_bad_words.to_string(), message));
        }
        if self.bad_words_token_ids.iter().any(Vec::is_empty) {
            return Err(ParamError::new("bad_words", "[]", "bad_words entries must tokenize to at least one token."));
        }
        Ok(())
    }

    /// Checks the rules that depend on the model: ids below `vocab_size`, lists no longer than it, and at most
    /// `max_logprobs` log probabilities a token (-1: the vocabulary). Call [`Self::verify`] as well.
    ///
    /// # Errors
    /// The first field that does not suit the model.
    pub fn verify_for_model(&self, vocab_size: u32, max_logprobs: i32) -> Result<(), ParamError> {
        verify_num_logprobs("logprobs", "sample", self.logprobs, vocab_size, max_logprobs)?;
        verify_num_logprobs("prompt_logprobs", "prompt", self.prompt_logprobs, vocab_size, max_logprobs)?;
        verify_ids("stop_token_ids", self.stop_token_ids.len(), self.stop_token_ids.iter().copied(), vocab_size)?;
        verify_ids("logit_bias", self.logit_bias.len(), self.logit_bias.iter().map(|(id, _)| *id), vocab_size)?;
        let mut seen = HashSet::with_capacity(self.logit_bias.len());
        if let Some((id, _)) = self.logit_bias.iter().find(|(id, _)| !seen.insert(*id)) {
            let message = format!("logit_bias names token id {id} more than once.");
            return Err(ParamError::new("logit_bias", id.to_string(), message));
        }
        if let Some(allowed) = &self.allowed_token_ids {
            verify_list_len("allowed_token_ids", allowed.len(), vocab_size)?;
            if let Some(id) = allowed.iter().find(|id| **id >= vocab_size) {
                let message = "allowed_token_ids contains out-of-vocab token id!";
                return Err(ParamError::new("allowed_token_ids", id.to_string(), message));
            }
        }
        self.bad_words_token_ids
            .iter()
            .try_for_each(|word| verify_ids("bad_words", 0, word.iter().copied(), vocab_size))
    }
}

fn verify_num_logprobs(
    parameter: &'static str,
    kind: &str,
    requested: Option<i32>,
    vocab_size: u32,
    max_logprobs: i32,
) -> Result<(), ParamError> {
    let in_vocabulary = |count: i32| u32::try_from(count).unwrap_or(vocab_size);
    let Some(requested) = requested.map(in_vocabulary) else { return Ok(()) };
    let allowed = in_vocabulary(max_logprobs);
    if requested <= allowed {
        return Ok(());
    }
    let message = format!("Requested {kind} logprobs of {requested}, which is greater than max allowed: {allowed}");
    Err(ParamError::new(parameter, requested.to_string(), message))
}

fn verify_list_len(parameter: &'static str, len: usize, vocab_size: u32) -> Result<(), ParamError> {
    if len <= vocab_size as usize {
        return Ok(());
    }
    let message = format!("{parameter} must hold at most vocab_size={vocab_size} entries, got {len}.");
    Err(ParamError::new(parameter, len.to_string(), message))
}

fn verify_ids(
    parameter: &'static str,
    len: usize,
    ids: impl Iterator<Item = u32>,
    vocab_size: u32,
) -> Result<(), ParamError> {
    verify_list_len(parameter, len, vocab_size)?;
    let wrong: Vec<u32> = ids.filter(|id| *id >= vocab_size).collect();
    if wrong.is_empty() {
        return Ok(());
    }
    let ids = first_of(&wrong);
    let message =
        format!("token_id(s) {ids} in {parameter} contain out-of-vocab token ids. Vocabulary size: {vocab_size}");
    Err(ParamError::new(parameter, ids, message))
}

/// `[1, 2]`, cut after a few so that a message stays a line.
fn first_of(ids: &[impl Debug]) -> String {
    if ids.len() <= MAX_IDS_IN_MESSAGE {
        return format!("{ids:?}");
    }
    format!("{:?} and {} more", &ids[..MAX_IDS_IN_MESSAGE], ids.len() - MAX_IDS_IN_MESSAGE)
}

#[cfg(test)]
mod tests;
