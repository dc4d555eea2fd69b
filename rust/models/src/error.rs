use std::path::PathBuf;

use rustllm_ops::WeightFormat;

use crate::{Convert, Runner};

/// Why a model folder was refused. Every variant names the file, field or tensor that is at fault.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file that could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// A JSON file that does not parse or has no object at its top.
    #[error("{}: {detail}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where and why.
        detail: String,
    },
    /// A required field that is absent or null.
    #[error("{}: the field {field:?} is missing", path.display())]
    MissingField {
        /// The configuration file.
        path: PathBuf,
        /// The field, as the file spells it.
        field: String,
    },
    /// A field whose value is of the wrong type or out of range.
    #[error("{}: {field} must be {allowed}, got {value}", path.display())]
    InvalidField {
        /// The configuration file.
        path: PathBuf,
        /// The field, as the file spells it.
        field: String,
        /// The value found, as JSON.
        value: String,
        /// What would have been accepted.
        allowed: String,
    },
    /// A field that asks for a computation this version does not have.
    #[error("{}: {field} = {value} changes what the model computes and is not supported for {architecture}", path.display())]
    UnsupportedField {
        /// The configuration file.
        path: PathBuf,
        /// The field, as the file spells it.
        field: String,
        /// The value found, as JSON.
        value: String,
        /// The architecture being loaded.
        architecture: String,
    },
    /// No entry of `architectures` has a model file here.
    #[error(
        "{}: architectures {found:?} are not supported, use one of {}; code in a model folder is never run",
        path.display(), supported.join(", ")
    )]
    UnsupportedArchitecture {
        /// The configuration file.
        path: PathBuf,
        /// The names the configuration gives.
        found: Vec<String>,
        /// All names the registry knows.
        supported: Vec<String>,
    },
    /// A use of the model that it does not have.
    #[error(
        "runner={runner:?} with convert={convert:?} is nothing that {architecture} can be loaded for, use runner={works:?}",
        runner = runner.to_string(), convert = convert.to_string()
    )]
    Runner {
        /// The entry of `architectures`.
        architecture: String,
        /// What was asked for.
        runner: Runner,
        /// What the model was to be made into.
        convert: Convert,
        /// The runner that takes the model.
        works: &'static str,
    },
    /// A folder without safetensors weights.
    #[error("{}: no *.safetensors weights{hint}", dir.display())]
    NoWeights {
        /// The model folder.
        dir: PathBuf,
        /// What was found in their place, if anything.
        hint: String,
    },
    /// A weights file that is truncated, corrupt or inconsistent.
    #[error("{}: {detail}", path.display())]
    Checkpoint {
        /// The weights file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// An entry of a sharded checkpoint's index that does not hold.
    #[error("{}: weight_map[{tensor:?}] = {entry}: {detail}", path.display())]
    IndexEntry {
        /// The index file.
        path: PathBuf,
        /// The entry's key.
        tensor: String,
        /// The entry's value.
        entry: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A tensor the model needs and the checkpoint does not have.
    #[error("{}: the tensor {tensor} is missing", dir.display())]
    MissingTensor {
        /// The model folder.
        dir: PathBuf,
        /// The tensor's full name.
        tensor: String,
    },
    /// Tensors the model has no place for: what it would compute is not what was trained.
    #[error("{}: tensors that {architecture} has no place for: {}", dir.display(), tensors.join(", "))]
    UnexpectedTensors {
        /// The model folder.
        dir: PathBuf,
        /// The architecture being loaded.
        architecture: String,
        /// The first few names.
        tensors: Vec<String>,
    },
    /// A tensor of another shape than the configuration says.
    #[error("{}: the tensor {tensor} has shape {found:?}, expected {expected:?}", dir.display())]
    TensorShape {
        /// The model folder.
        dir: PathBuf,
        /// The tensor's full name.
        tensor: String,
        /// Its shape in the checkpoint.
        found: Vec<usize>,
        /// The shape the configuration asks for.
        expected: Vec<usize>,
    },
    /// A tensor of an element type that it cannot have.
    #[error("{}: the tensor {tensor} has dtype {found}, expected {expected}", dir.display())]
    TensorDType {
        /// The model folder.
        dir: PathBuf,
        /// The tensor's full name.
        tensor: String,
        /// Its safetensors dtype.
        found: String,
        /// What it may have.
        expected: &'static str,
    },
    /// A dtype or quantization the backend has no kernels for.
    #[error("weights in {format} are not supported by the {backend} backend, use one of {allowed}")]
    UnsupportedFormat {
        /// The format asked for, or the checkpoint's own.
        format: WeightFormat,
        /// The backend asked.
        backend: &'static str,
        /// What it supports.
        allowed: String,
    },
    /// A `max_model_len` of zero or past what the model's positions reach.
    #[error("max_model_len must be between 1 and the model's limit of {limit}, got {requested}")]
    MaxModelLen {
        /// The length asked for.
        requested: usize,
        /// The length the configuration allows.
        limit: usize,
    },
    /// Rotary tables that would take more memory than any use of them is worth.
    #[error(
        "rotary tables for max_model_len {max_model_len} would take {bytes} bytes, set max_model_len to {limit} or less"
    )]
    RopeTableTooLarge {
        /// Positions the tables were to reach.
        max_model_len: usize,
        /// Their size.
        bytes: u64,
        /// The most positions that are allowed.
        limit: usize,
    },
    /// A failure of the backend while it took a weight.
    #[error(transparent)]
    Backend(#[from] rustllm_ops::Error),
}
