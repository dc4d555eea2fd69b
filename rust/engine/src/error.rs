use rustllm_core::ParamError;

/// A field whose value is not allowed; the message says what is.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct InvalidArgument {
    /// Name of the field.
    pub parameter: String,
    /// What was given, as text.
    pub value: String,
    /// What is wrong and what is allowed.
    pub message: String,
}

impl InvalidArgument {
    /// `parameter` was `value`, which is refused for the reason in `message`.
    pub fn new(parameter: &str, value: impl ToString, message: impl Into<String>) -> Self {
        Self { parameter: parameter.to_owned(), value: value.to_string(), message: message.into() }
    }
}

impl From<ParamError> for InvalidArgument {
    fn from(error: ParamError) -> Self {
        Self { parameter: error.parameter.to_owned(), value: error.value, message: error.message }
    }
}

/// What loading or running an engine can fail with.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// An engine argument or a request that is refused.
    #[error(transparent)]
    Invalid(#[from] InvalidArgument),
    /// A model folder that cannot be loaded.
    #[error(transparent)]
    Load(#[from] rustllm_models::LoadError),
    /// A device without the memory the engine needs.
    #[error("{0}")]
    Memory(String),
    /// An op or allocation that failed on the device.
    #[error(transparent)]
    Device(#[from] rustllm_ops::Error),
    /// The engine thread has stopped.
    #[error("the engine has stopped: {0}")]
    Dead(String),
}
