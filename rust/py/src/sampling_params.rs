//! Reads a Python `SamplingParams`, or any object with its attributes, into the core's.

use pyo3::prelude::*;
use pyo3::types::PyBool;
use rustllm_core::SamplingParams;
use rustllm_engine::InvalidArgument;

use crate::errors;

/// Reads one attribute at a time and says which one is wrong.
struct Reader<'a, 'py> {
    params: &'a Bound<'py, PyAny>,
}

impl<'py> Reader<'_, 'py> {
    fn attribute(&self, name: &str) -> PyResult<Bound<'py, PyAny>> {
        self.params.getattr(name)
    }

    fn refuse(&self, name: &str, message: String) -> PyErr {
        let py = self.params.py();
        errors::validation(py, &message, Some(name), self.params.getattr(name).ok())
    }

    fn wrong_type(&self, name: &str, expected: &str, value: &Bound<'_, PyAny>) -> PyErr {
        let found = value.get_type().to_string();
        self.refuse(name, format!("{name} must be {expected}, but is of type {found}"))
    }

    /// An attribute of another shape than a number: `expected` names it in the error.
    fn typed<T>(&self, name: &str, expected: &str) -> PyResult<T>
    where
        T: for<'a> FromPyObject<'a, 'py>,
    {
        let value = self.attribute(name)?;
        value.extract().map_err(|_| self.wrong_type(name, expected, &value))
    }

    /// An integer that must not be below `least`; `rule` is what the error says of one that is.
    fn integer(&self, name: &str, least: i64, rule: &str) -> PyResult<i64> {
        let value = self.attribute(name)?;
        if value.is_instance_of::<PyBool>() {
            return Err(self.wrong_type(name, "an int", &value));
        }
        let number: i64 = value.extract().map_err(|_| self.wrong_type(name, "an int", &value))?;
        if number < least || number > i64::from(u32::MAX) {
            return Err(self.refuse(name, format!("{name} must be {rule}, got {number}.")));
        }
        Ok(number)
    }

    fn unsigned(&self, name: &str, least: i64, rule: &str) -> PyResult<u32> {
        // `integer` has checked the range.
        self.integer(name, least, rule).map(|number| number as u32)
    }

    fn optional<T>(&self, name: &str, read: impl FnOnce() -> PyResult<T>) -> PyResult<Option<T>> {
        if self.attribute(name)?.is_none() { Ok(None) } else { read().map(Some) }
    }

    fn number(&self, name: &str) -> PyResult<f32> {
        let value = self.attribute(name)?;
        // Rounding to float32 must not turn a finite number into an infinity unseen: the core refuses infinities.
        value.extract::<f64>().map(|number| number as f32).map_err(|_| self.wrong_type(name, "a number", &value))
    }

    fn logprobs(&self, name: &str) -> PyResult<Option<i32>> {
        self.optional(name, || {
            let count = self.integer(name, -1, "non-negative or -1")?;
            Ok(i32::try_from(count).unwrap_or(i32::MAX))
        })
    }

    fn token_ids(&self, name: &str) -> PyResult<Vec<u32>> {
        let value = self.attribute(name)?;
        if value.is_none() {
            return Ok(Vec::new());
        }
        value
            .extract()
            .map_err(|_| self.refuse(name, format!("{name} must contain only integers, none of them negative")))
    }

    fn logit_bias(&self) -> PyResult<Vec<(u32, f32)>> {
        let name = "logit_bias";
        let bias = self.optional(name, || {
            self.typed::<std::collections::BTreeMap<u32, f32>>(name, "a dict from token ids to numbers")
        })?;
        Ok(bias.unwrap_or_default().into_iter().collect())
    }

    fn seed(&self) -> PyResult<Option<u64>> {
        self.optional("seed", || {
            let value = self.attribute("seed")?;
            // Negative seeds are as good as any other: their two's complement.
            let signed = value.extract::<i64>().map(|seed| seed as u64);
            signed.or_else(|_| value.extract::<u64>()).map_err(|_| self.wrong_type("seed", "a 64-bit int", &value))
        })
    }

    fn read(&self) -> PyResult<SamplingParams> {
        Ok(SamplingParams {
            n: self.unsigned("n", 1, "at least 1")?,
            presence_penalty: self.number("presence_penalty")?,
            frequency_penalty: self.number("frequency_penalty")?,
            repetition_penalty: self.number("repetition_penalty")?,
            temperature: self.number("temperature")?,
            top_p: self.number("top_p")?,
            top_k: self.unsigned("top_k", 0, "0 (disable), or at least 1")?,
            min_p: self.number("min_p")?,
            seed: self.seed()?,
            stop_token_ids: self.token_ids("stop_token_ids")?,
            ignore_eos: self.typed("ignore_eos", "a bool")?,
            max_tokens: self.optional("max_tokens", || self.unsigned("max_tokens", 1, "at least 1"))?,
            min_tokens: self.unsigned("min_tokens", 0, "greater than or equal to 0")?,
            logprobs: self.logprobs("logprobs")?,
            prompt_logprobs: self.logprobs("prompt_logprobs")?,
            logit_bias: self.logit_bias()?,
            allowed_token_ids: self.optional("allowed_token_ids", || self.token_ids("allowed_token_ids"))?,
            bad_words_token_ids: self.typed("bad_words_token_ids", "a list of lists of token ids")?,
        })
    }
}

/// Reads `params` without judging the values' ranges.
pub(crate) fn read(params: &Bound<'_, PyAny>) -> PyResult<SamplingParams> {
    Reader { params }.read()
}

/// Raises `ValidationError` if `params` breaks a rule that needs no model to check.
#[pyfunction]
pub(crate) fn check_sampling_params(params: &Bound<'_, PyAny>) -> PyResult<()> {
    let refused = |error: InvalidArgument| errors::invalid(params.py(), &error, Some(params));
    read(params)?.verify().map_err(|error| refused(error.into()))
}
