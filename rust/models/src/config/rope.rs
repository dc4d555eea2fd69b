use super::families::MAX_POSITIONS;
use super::fields::Fields;
use crate::LoadError;
use crate::rope::{RopeConfig, RopeScaling};

type Result<T> = std::result::Result<T, LoadError>;

/// Keys that any rope object may have. Others belong to a rule, or change it in a way that is not here.
const KNOWN: [&str; 5] = ["rope_type", "type", "rope_theta", "factor", "partial_rotary_factor"];

/// What a family says of its rotary positions where the file does not.
#[derive(Debug, Clone, Copy)]
pub(super) struct RopeFamily {
    /// Elements of a head.
    pub(super) head_dim: usize,
    /// Base of the frequencies.
    pub(super) theta: f64,
    /// The part of a head that rotates; `None` where the family has no say in it: all of it.
    pub(super) partial_rotary_factor: Option<f64>,
    /// Whether pairs are neighbours.
    pub(super) interleaved: bool,
}

impl RopeFamily {
    /// Llama's: all of the head, base 10000.
    pub(super) fn new(head_dim: usize) -> Self {
        Self { head_dim, theta: 10_000.0, partial_rotary_factor: None, interleaved: false }
    }

    /// Reads `rope_theta` with `rope_scaling` (transformers 4), or `rope_parameters` (transformers 5).
    pub(super) fn read(self, fields: &Fields, architecture: &str) -> Result<RopeConfig> {
        let theta = fields.positive("rope_theta", self.theta)?;
        let object = match fields.object("rope_scaling")? {
            Some(object) => Some(object),
            None => fields.object("rope_parameters")?,
        };
        self.config(fields, object.as_ref(), theta, architecture)
    }

    /// The positions of full and of sliding attention layers, for families that tell them apart.
    ///
    /// transformers 5 has an object for each in `rope_parameters`. In transformers 4, `rope_theta` and `rope_scaling` are the
    /// full layers'; the sliding ones' base is `local_theta`, or the same where the family has no such field.
    pub(super) fn read_by_layer_type(
        self,
        fields: &Fields,
        architecture: &str,
        local_theta: Option<(&str, f64)>,
    ) -> Result<(RopeConfig, RopeConfig)> {
        let theta = fields.positive("rope_theta", self.theta)?;
        let local = match local_theta {
            Some((name, default)) => fields.positive(name, default)?,
            None => theta,
        };
        let (mut full, mut sliding) = (fields.object("rope_scaling")?, None);
        if let Some(parameters) = by_layer_type(fields, architecture)? {
            full = parameters.object("full_attention")?.or(full);
            sliding = parameters.object("sliding_attention")?;
        }
        Ok((
            self.config(fields, full.as_ref(), theta, architecture)?,
            self.config(fields, sliding.as_ref(), local, architecture)?,
        ))
    }

    /// The positions of the layers of `layer_type` by `rope_parameters`; `None` where the file has none of these.
    pub(super) fn read_of_layer_type(
        self,
        fields: &Fields,
        architecture: &str,
        layer_type: &str,
    ) -> Result<Option<RopeConfig>> {
        let Some(parameters) = by_layer_type(fields, architecture)? else { return Ok(None) };
        let object = parameters.object(layer_type)?.ok_or_else(|| parameters.missing(layer_type))?;
        self.config(fields, Some(&object), self.theta, architecture).map(Some)
    }

    fn config(self, fields: &Fields, object: Option<&Fields>, theta: f64, architecture: &str) -> Result<RopeConfig> {
        if !self.head_dim.is_multiple_of(2) {
            let allowed = format!("even for rotary positions (it is {})", self.head_dim);
            return Err(fields.invalid("head_dim", allowed));
        }
        let rotary_dim = self.rotary_dim(fields, object, architecture)?;
        let Some(object) = object else {
            return Ok(RopeConfig { theta, rotary_dim, interleaved: self.interleaved, scaling: None });
        };
        let theta = object.positive("rope_theta", theta)?;
        let (scaling, more) = scaling(fields, object, rotary_dim)?;
        let known = |name: &&str| KNOWN.contains(name) || more.contains(name);
        match object.names().find(|name| object.get(name).is_some() && !known(name)) {
            Some(name) => Err(object.unsupported(name, architecture)),
            None => Ok(RopeConfig { theta, rotary_dim, interleaved: self.interleaved, scaling }),
        }
    }

    /// The part of a head that rotates: the rope object's word, else the file's, else the family's.
    fn rotary_dim(self, fields: &Fields, object: Option<&Fields>, architecture: &str) -> Result<usize> {
        const NAME: &str = "partial_rotary_factor";
        if let Some(object) = object
            && rope_type(object)?.1 == Some("proportional")
        {
            return Ok(self.head_dim);
        }
        let source = object.filter(|object| object.get(NAME).is_some()).unwrap_or(fields);
        if source.get(NAME).is_none() {
            return self.part(fields, self.partial_rotary_factor.unwrap_or(1.0));
        }
        let part = source.number(NAME, "a number above 0, at most 1", |part| part > 0.0 && part <= 1.0)?;
        if self.partial_rotary_factor.is_none() && part != 1.0 {
            return Err(source.unsupported(NAME, architecture));
        }
        self.part(source, part)
    }

    fn part(self, source: &Fields, part: f64) -> Result<usize> {
        let rotary_dim = (self.head_dim as f64 * part) as usize;
        if rotary_dim >= 2 && rotary_dim.is_multiple_of(2) {
            return Ok(rotary_dim);
        }
        let allowed = format!("so that an even part of the {} elements of a head rotates", self.head_dim);
        Err(source.invalid("partial_rotary_factor", allowed))
    }
}

/// `rope_parameters` of a family that has an object in it for each type of layers.
fn by_layer_type(fields: &Fields, architecture: &str) -> Result<Option<Fields>> {
    let Some(parameters) = fields.object("rope_parameters")? else { return Ok(None) };
    if let Some(other) = parameters.names().find(|name| !["full_attention", "sliding_attention"].contains(name)) {
        return Err(parameters.unsupported(other, architecture));
    }
    Ok(Some(parameters))
}

/// What a rope object calls its rule, under which of two keys.
fn rope_type(object: &Fields) -> Result<(&'static str, Option<&str>)> {
    let key = if object.get("rope_type").is_some() { "rope_type" } else { "type" };
    Ok((key, object.text(key)?))
}

/// The rule of a rope object, and the keys that belong to it.
fn scaling(
    fields: &Fields,
    object: &Fields,
    rotary_dim: usize,
) -> Result<(Option<RopeScaling>, &'static [&'static str])> {
    let (key, rope_type) = rope_type(object)?;
    let (scaling, keys): (_, &[&str]) = match rope_type {
        None | Some("default") => return Ok((None, &[])),
        Some("linear") => (RopeScaling::Linear { factor: factor(object)? }, &[]),
        Some("dynamic") => (dynamic(fields, object, rotary_dim)?, &[]),
        Some("llama3") => {
            (llama3(fields, object)?, &["low_freq_factor", "high_freq_factor", "original_max_position_embeddings"])
        }
        Some("yarn") => (
            yarn(fields, object)?,
            &[
                "original_max_position_embeddings",
                "attention_factor",
                "beta_fast",
                "beta_slow",
                "mscale",
                "mscale_all_dim",
                "truncate",
            ],
        ),
        Some("proportional") => (proportional(object, rotary_dim)?, &[]),
        // "su" is what the first Phi-3 files call it.
        Some("longrope" | "su") => (
            longrope(fields, object, rotary_dim)?,
            &["original_max_position_embeddings", "attention_factor", "short_factor", "long_factor"],
        ),
        Some(_) => {
            return Err(object.invalid(key, "one of default, linear, dynamic, llama3, yarn, longrope, proportional"));
        }
    };
    Ok((Some(scaling), keys))
}

fn factor(object: &Fields) -> Result<f64> {
    object.number("factor", "a number between 1 and 1000000", |factor| (1.0..=1e6).contains(&factor))
}

/// A number above 0, `default` when absent.
fn positive(object: &Fields, name: &str, default: f64) -> Result<f64> {
    match object.get(name) {
        None => Ok(default),
        Some(_) => object.number(name, "a number above 0, at most 1000000", |number| number > 0.0 && number <= 1e6),
    }
}

/// The context a model was first trained on: the file's word, else the rope object's, else all positions.
fn original_max_position(fields: &Fields, object: &Fields) -> Result<usize> {
    const NAME: &str = "original_max_position_embeddings";
    for source in [fields, object] {
        if let Some(positions) = source.optional_size(NAME, 2..=MAX_POSITIONS)? {
            return Ok(positions);
        }
    }
    fields.size("max_position_embeddings", 1..=MAX_POSITIONS)
}

fn dynamic(fields: &Fields, object: &Fields, rotary_dim: usize) -> Result<RopeScaling> {
    if rotary_dim < 4 {
        return Err(object.invalid("rope_type", "another than dynamic for heads of which one pair rotates"));
    }
    let original_max_position = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    Ok(RopeScaling::Dynamic { factor: factor(object)?, original_max_position })
}

fn proportional(object: &Fields, rotary_dim: usize) -> Result<RopeScaling> {
    const NAME: &str = "partial_rotary_factor";
    let part = match object.get(NAME) {
        None => 1.0,
        Some(_) => object.number(NAME, "a number between 0 and 1", |part| (0.0..=1.0).contains(&part))?,
    };
    let num_pairs = (part * rotary_dim as f64 / 2.0) as usize;
    Ok(RopeScaling::Proportional { factor: positive(object, "factor", 1.0)?, num_pairs })
}

fn llama3(fields: &Fields, object: &Fields) -> Result<RopeScaling> {
    let frequency = |name| object.number(name, "a number above 0, at most 1000000", |f| f > 0.0 && f <= 1e6);
    let (low_freq_factor, high_freq_factor) = (frequency("low_freq_factor")?, frequency("high_freq_factor")?);
    if low_freq_factor >= high_freq_factor {
        return Err(object.invalid("high_freq_factor", format!("above low_freq_factor ({low_freq_factor})")));
    }
    let original_max_position = original_max_position(fields, object)?;
    Ok(RopeScaling::Llama3 { factor: factor(object)?, low_freq_factor, high_freq_factor, original_max_position })
}

fn yarn(fields: &Fields, object: &Fields) -> Result<RopeScaling> {
    let factor = factor(object)?;
    let (beta_fast, beta_slow) = (positive(object, "beta_fast", 32.0)?, positive(object, "beta_slow", 1.0)?);
    if beta_fast < beta_slow {
        return Err(object.invalid("beta_fast", format!("at least beta_slow ({beta_slow})")));
    }
    let growth = |mscale: f64| 0.1 * mscale * factor.ln() + 1.0;
    let scale = |name| object.get(name).map(|_| positive(object, name, 1.0)).transpose();
    let default = match (scale("mscale")?, scale("mscale_all_dim")?) {
        (Some(scale), Some(all)) => growth(scale) / growth(all),
        _ => growth(1.0),
    };
    Ok(RopeScaling::Yarn {
        factor,
        beta_fast,
        beta_slow,
        truncate: object.flag("truncate", true)?,
        original_max_position: original_max_position(fields, object)?,
        attention_factor: positive(object, "attention_factor", default)?,
    })
}

fn longrope(fields: &Fields, object: &Fields, rotary_dim: usize) -> Result<RopeScaling> {
    let divisors = |name| {
        let divisors = object.numbers(name)?.ok_or_else(|| object.missing(name))?;
        if divisors.len() == rotary_dim / 2 && divisors.iter().all(|divisor| *divisor > 0.0) {
            return Ok(divisors);
        }
        Err(object.invalid(name, format!("a list of {} numbers above 0", rotary_dim / 2)))
    };
    let original = original_max_position(fields, object)?;
    let positions = fields.size("max_position_embeddings", 1..=MAX_POSITIONS)?;
    let factor = positive(object, "factor", positions as f64 / original as f64)?;
    let default = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / (original as f64).ln()).sqrt() };
    Ok(RopeScaling::LongRope {
        short_factor: divisors("short_factor")?,
        long_factor: divisors("long_factor")?,
        original_max_position: original,
        attention_factor: positive(object, "attention_factor", default)?,
    })
}
