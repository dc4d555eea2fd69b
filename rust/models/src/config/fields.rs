use std::fmt::Display;
use std::fs::{self, File};
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::LoadError;

/// The largest JSON file that is read. The index of a thousand-shard checkpoint takes a few of these bytes.
const MAX_JSON_BYTES: u64 = 64 << 20;

/// Longest part of a value or line an error message quotes.
const QUOTED: usize = 120;

/// A JSON object with its file's name, and typed access to its fields that says which one is wrong and why.
#[derive(Debug, Clone)]
pub(crate) struct Fields {
    path: PathBuf,
    /// Where in the file the object stands: empty, or `rope_scaling.`.
    scope: String,
    map: Map<String, Value>,
}

impl Fields {
    /// Reads the object in `path`; `None` when there is no such file.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>, LoadError> {
        match read_json(path)? {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self { path: path.into(), scope: String::new(), map })),
            Some(_) => Err(json_error(path, "expected a JSON object")),
        }
    }

    /// Reads the list of objects in `path`; `None` when there is no such file.
    pub(crate) fn read_list(path: &Path) -> Result<Option<Vec<Self>>, LoadError> {
        let entry = |(index, value)| match value {
            Value::Object(map) => Ok(Self { path: path.into(), scope: format!("[{index}]."), map }),
            _ => Err(json_error(path, "expected a list of JSON objects")),
        };
        match read_json(path)? {
            None => Ok(None),
            Some(Value::Array(list)) => list.into_iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some),
            Some(_) => Err(json_error(path, "expected a list of JSON objects")),
        }
    }

    /// Reads `path`, which must exist.
    pub(crate) fn read_required(path: &Path) -> Result<Self, LoadError> {
        let missing = || LoadError::Io { path: path.into(), source: std::io::ErrorKind::NotFound.into() };
        Self::read(path)?.ok_or_else(missing)
    }

    /// Replaces fields by those of `overrides`, each as a whole.
    pub(crate) fn apply(&mut self, overrides: &Map<String, Value>) {
        self.map.extend(overrides.iter().map(|(name, value)| (name.clone(), value.clone())));
    }

    /// The same with the numbers of `defaults` where it has no such fields.
    pub(crate) fn with_defaults(mut self, defaults: &[(&str, usize)]) -> Self {
        for (name, value) in defaults {
            self.map.entry(*name).or_insert_with(|| Value::from(*value));
        }
        self
    }

    /// The same without a field.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.map.remove(name);
        self
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The names present, in the file's order or sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.map.keys().map(String::as_str)
    }

    /// Whether the file has the field at all, null or not.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    /// The field's value, if present and not null.
    pub(crate) fn get(&self, name: &str) -> Option<&Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    /// A required whole number within `range`.
    pub(crate) fn size(&self, name: &str, range: RangeInclusive<usize>) -> Result<usize, LoadError> {
        self.optional_size(name, range)?.ok_or_else(|| self.missing(name))
    }

    /// A whole number within `range`, if present and not null.
    pub(crate) fn optional_size(&self, name: &str, range: RangeInclusive<usize>) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        match value.as_u64().and_then(|number| usize::try_from(number).ok()).filter(|size| range.contains(size)) {
            Some(size) => Ok(Some(size)),
            None => Err(self.invalid(name, format!("a whole number between {} and {}", range.start(), range.end()))),
        }
    }

    /// A required finite number that `holds`, or an error that says it must be `allowed`.
    pub(crate) fn number(&self, name: &str, allowed: &str, holds: fn(f64) -> bool) -> Result<f64, LoadError> {
        match self.get(name) {
            None => Err(self.missing(name)),
            Some(value) => value
                .as_f64()
                .filter(|number| number.is_finite() && holds(*number))
                .ok_or_else(|| self.invalid(name, allowed)),
        }
    }

    /// A positive finite number, `default` when absent.
    pub(crate) fn positive(&self, name: &str, default: f64) -> Result<f64, LoadError> {
        match self.get(name) {
            None => Ok(default),
            Some(_) => self.number(name, "a finite number above 0", |number| number > 0.0),
        }
    }

    /// A switch, `default` when absent.
    pub(crate) fn flag(&self, name: &str, default: bool) -> Result<bool, LoadError> {
        match self.get(name) {
            None => Ok(default),
            Some(value) => value.as_bool().ok_or_else(|| self.invalid(name, "true or false")),
        }
    }

    /// A string, if present.
    pub(crate) fn text(&self, name: &str) -> Result<Option<&str>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or_else(|| self.invalid(name, "a string")),
        }
    }

    /// A list of whole numbers above zero, if present.
    pub(crate) fn sizes(&self, name: &str) -> Result<Option<Vec<usize>>, LoadError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let size = |value: &Value| value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|size| *size > 0);
        let sizes = value.as_array().and_then(|list| list.iter().map(size).collect());
        sizes.map(Some).ok_or_else(|| self.invalid(name, "a list of whole numbers above 0"))
    }

    /// A list of strings, if present.
    pub(crate) fn texts(&self, name: &str) -> Result<Option<Vec<&str>>, LoadError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let texts = value.as_array().and_then(|list| list.iter().map(Value::as_str).collect());
        texts.map(Some).ok_or_else(|| self.invalid(name, "a list of strings"))
    }

    /// A list of finite numbers, if present.
    pub(crate) fn numbers(&self, name: &str) -> Result<Option<Vec<f64>>, LoadError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let number = |value: &Value| value.as_f64().filter(|number| number.is_finite());
        let numbers = value.as_array().and_then(|list| list.iter().map(number).collect());
        numbers.map(Some).ok_or_else(|| self.invalid(name, "a list of numbers"))
    }

    /// Token ids written as one number or a list of them; empty when absent.
    pub(crate) fn token_ids(&self, name: &str) -> Result<Vec<u32>, LoadError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.get(name) {
            None => return Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.invalid(name, "a token id or a list of them"))
    }

    /// An object inside this one, if present and not empty.
    pub(crate) fn object(&self, name: &str) -> Result<Option<Self>, LoadError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::Object(map)) if map.is_empty() => Ok(None),
            Some(Value::Object(map)) => {
                Ok(Some(Self { path: self.path.clone(), scope: format!("{}{name}.", self.scope), map: map.clone() }))
            }
            Some(_) => Err(self.invalid(name, "an object")),
        }
    }

    pub(crate) fn missing(&self, name: &str) -> LoadError {
        LoadError::MissingField { path: self.path.clone(), field: format!("{}{name}", self.scope) }
    }

    pub(crate) fn invalid(&self, name: &str, allowed: impl Into<String>) -> LoadError {
        LoadError::InvalidField {
            path: self.path.clone(),
            field: format!("{}{name}", self.scope),
            value: self.quoted(name),
            allowed: allowed.into(),
        }
    }

    pub(crate) fn unsupported(&self, name: &str, architecture: &str) -> LoadError {
        LoadError::UnsupportedField {
            path: self.path.clone(),
            field: format!("{}{name}", self.scope),
            value: self.quoted(name),
            architecture: architecture.into(),
        }
    }

    fn quoted(&self, name: &str) -> String {
        self.map.get(name).map_or_else(|| "nothing".into(), |value| shorten(&value.to_string()))
    }
}

/// The value in `path`; `None` when there is no such file.
fn read_json(path: &Path) -> Result<Option<Value>, LoadError> {
    let io = |source| LoadError::Io { path: path.into(), source };
    match fs::metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io(error)),
        Ok(metadata) if !metadata.is_file() => return Err(json_error(path, "not a regular file")),
        Ok(_) => {}
    }
    let mut text = String::new();
    let mut file = File::open(path).map_err(io)?.take(MAX_JSON_BYTES + 1);
    file.read_to_string(&mut text).map_err(io)?;
    if text.len() as u64 > MAX_JSON_BYTES {
        return Err(json_error(path, format!("longer than {MAX_JSON_BYTES} bytes")));
    }
    match serde_json::from_str(&text) {
        Ok(value) => Ok(Some(value)),
        Err(error) => {
            let line = text.lines().nth(error.line().saturating_sub(1)).unwrap_or_default();
            Err(json_error(path, format!("invalid JSON: {error}: {}", shorten(line.trim()))))
        }
    }
}

fn json_error(path: &Path, detail: impl Display) -> LoadError {
    LoadError::Json { path: path.into(), detail: detail.to_string() }
}

/// At most [`QUOTED`] characters of `text`.
fn shorten(text: &str) -> String {
    match text.char_indices().nth(QUOTED) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.into(),
    }
}
