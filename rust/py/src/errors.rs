//! The one place where Rust errors become Python exceptions: those of `rustllm.errors`.

use pyo3::prelude::*;
use rustllm_engine::{EngineError, InvalidArgument};

pub(crate) const NAMES: [&str; 4] = ["RustllmError", "ValidationError", "ModelLoadError", "EngineDeadError"];

/// The class `rustllm.errors.<name>`.
pub(crate) fn class<'py>(py: Python<'py>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    py.import("rustllm.errors")?.getattr(name)
}

fn raise<'py>(py: Python<'py>, name: &str, args: impl pyo3::call::PyCallArgs<'py>) -> PyErr {
    match class(py, name).and_then(|class| class.call1(args)) {
        Ok(instance) => PyErr::from_value(instance),
        Err(error) => error,
    }
}

/// A `ValidationError` that blames `parameter`.
pub(crate) fn validation(
    py: Python<'_>,
    message: &str,
    parameter: Option<&str>,
    value: Option<Bound<'_, PyAny>>,
) -> PyErr {
    raise(py, "ValidationError", (message, parameter, value))
}

/// A refused argument, with the Python object that was given for it where `source` has it as an attribute.
pub(crate) fn invalid(py: Python<'_>, error: &InvalidArgument, source: Option<&Bound<'_, PyAny>>) -> PyErr {
    let given = source.and_then(|source| source.getattr(error.parameter.as_str()).ok());
    let value = given.or_else(|| Some(error.value.as_str().into_pyobject(py).ok()?.into_any()));
    validation(py, &error.message, Some(&error.parameter), value)
}

/// Any engine error.
pub(crate) fn engine(py: Python<'_>, error: &EngineError) -> PyErr {
    match error {
        EngineError::Invalid(error) => invalid(py, error, None),
        EngineError::Load(error) => raise(py, "ModelLoadError", (error.to_string(),)),
        EngineError::Memory(message) => validation(py, message, None, None),
        EngineError::Device(error) => raise(py, "RustllmError", (error.to_string(),)),
        EngineError::Dead(_) => raise(py, "EngineDeadError", (error.to_string(),)),
    }
}
