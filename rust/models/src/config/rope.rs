use rustllm_ops::RopeScaling;

use super::fields::Fields;
use crate::LoadError;

/// Rotary position embedding of the query and key heads.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RopeConfig {
    /// Base of the frequencies.
    pub theta: f64,
    /// Leading elements of a head that rotate.
    pub rotary_dim: usize,
    /// How frequencies are stretched past the first context.
    pub scaling: Option<RopeScaling>,
}

/// Every key a rope object may have. Others change the rule, and none of those rules is here.
const KNOWN: [&str; 8] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
    "partial_rotary_factor",
];

const DEFAULT_THETA: f64 = 10_000.0;

impl RopeConfig {
    /// Reads `rope_theta` with `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5).
    pub(super) fn read(fields: &Fields, architecture: &str, head_dim: usize) -> Result<Self, LoadError> {
        let outer_theta = fields.positive("rope_theta", DEFAULT_THETA)?;
        let object = match fields.object("rope_scaling")? {
            Some(object) => Some(object),
            None => fields.object("rope_parameters")?,
        };
        match object {
            Some(object) => Self::from_object(fields, &object, architecture, head_dim, outer_theta),
            None => Self::with_theta(fields, head_dim, outer_theta),
        }
    }

    /// The whole head rotates, by frequencies of this base.
    pub(super) fn with_theta(fields: &Fields, head_dim: usize, theta: f64) -> Result<Self, LoadError> {
        if !head_dim.is_multiple_of(2) {
            return Err(fields.invalid("head_dim", format!("even for rotary positions (it is {head_dim})")));
        }
        Ok(Self { theta, rotary_dim: head_dim, scaling: None })
    }

    /// Reads an object that says how heads rotate; its base is `default_theta` unless it has one.
    pub(super) fn from_object(
        fields: &Fields,
        object: &Fields,
        architecture: &str,
        head_dim: usize,
        default_theta: f64,
    ) -> Result<Self, LoadError> {
        for name in object.names() {
            let neutral = name != "partial_rotary_factor" || object.get(name).is_none_or(|factor| *factor == 1.0);
            if object.get(name).is_some() && !(KNOWN.contains(&name) && neutral) {
                return Err(object.unsupported(name, architecture));
            }
        }
        let theta = object.positive("rope_theta", default_theta)?;
        Ok(Self { scaling: scaling(object)?, ..Self::with_theta(fields, head_dim, theta)? })
    }
}

fn scaling(object: &Fields) -> Result<Option<RopeScaling>, LoadError> {
    let key = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    match object.text(key)? {
        None | Some("default") => Ok(None),
        Some("linear") => Ok(Some(RopeScaling::Linear { factor: factor(object)? })),
        Some("llama3") => llama3(object).map(Some),
        Some(_) => Err(object.invalid(key, "one of default, linear, llama3")),
    }
}

fn factor(object: &Fields) -> Result<f32, LoadError> {
    let factor = object.number("factor", "a number between 1 and 1000000", |factor| (1.0..=1e6).contains(&factor))?;
    Ok(factor as f32)
}

fn llama3(object: &Fields) -> Result<RopeScaling, LoadError> {
    let frequency = |name| object.number(name, "a number above 0, at most 1000000", |f| f > 0.0 && f <= 1e6);
    let (low, high) = (frequency("low_freq_factor")? as f32, frequency("high_freq_factor")? as f32);
    if low >= high {
        return Err(object.invalid("high_freq_factor", format!("above low_freq_factor ({low})")));
    }
    Ok(RopeScaling::Llama3 {
        factor: factor(object)?,
        low_freq_factor: low,
        high_freq_factor: high,
        original_max_position: object.size("original_max_position_embeddings", 1..=i32::MAX as usize)?,
    })
}
