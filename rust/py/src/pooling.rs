//! What pooling requests ask for, and their results as numpy arrays.

use pyo3::prelude::*;
use pyo3::types::PyByteArray;
use rustllm_engine::{InvalidArgument, Pooled, PoolingRequest};

use crate::engine::argument;
use crate::errors;

/// What is to be made of a prompt. `None` takes what the model was made for.
#[pyclass(frozen, eq, from_py_object, module = "rustllm._core")]
#[derive(Clone, PartialEq)]
pub(crate) struct PoolingParams(rustllm_core::PoolingParams);

#[pymethods]
impl PoolingParams {
    #[new]
    #[pyo3(signature = (task, *, use_activation = None, dimensions = None, normalize = None, mask_token_id = None))]
    fn new(
        py: Python<'_>,
        task: &str,
        use_activation: Option<bool>,
        dimensions: Option<usize>,
        normalize: Option<bool>,
        mask_token_id: Option<u32>,
    ) -> PyResult<Self> {
        let unknown = |message: String| errors::invalid(py, &InvalidArgument::new("task", task, message), None);
        let task = task.parse().map_err(unknown)?;
        Ok(Self(rustllm_core::PoolingParams { task, use_activation, dimensions, normalize, mask_token_id }))
    }

    #[getter]
    fn task(&self) -> &'static str {
        self.0.task.name()
    }

    #[getter]
    fn use_activation(&self) -> Option<bool> {
        self.0.use_activation
    }

    #[getter]
    fn dimensions(&self) -> Option<usize> {
        self.0.dimensions
    }

    #[getter]
    fn normalize(&self) -> Option<bool> {
        self.0.normalize
    }

    #[getter]
    fn mask_token_id(&self) -> Option<u32> {
        self.0.mask_token_id
    }

    fn __repr__(&self) -> String {
        let flag = |flag: Option<bool>| flag.map_or("None", |flag| if flag { "True" } else { "False" });
        let number = |number: Option<String>| number.unwrap_or_else(|| "None".into());
        format!(
            "PoolingParams({:?}, use_activation={}, dimensions={}, normalize={}, mask_token_id={})",
            self.task(),
            flag(self.0.use_activation),
            number(self.0.dimensions.map(|size| size.to_string())),
            flag(self.0.normalize),
            number(self.0.mask_token_id.map(|id| id.to_string())),
        )
    }
}

/// (request id, prompt token ids, token type ids, params, priority, cache salt)
pub(crate) type PoolingTuple<'py> = (
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
    Bound<'py, PyAny>,
    Bound<'py, PyAny>,
    Option<Bound<'py, PyAny>>,
);

pub(crate) fn read_request(
    (request_id, prompt, types, params, priority, cache_salt): PoolingTuple<'_>,
) -> PyResult<PoolingRequest> {
    let prompt: Vec<u32> =
        argument(&prompt, "prompt_token_ids", "a sequence of token ids, none of them negative or past 2**32")?;
    let read_types = |types: Bound<'_, PyAny>| -> PyResult<Vec<u32>> {
        argument(&types, "token_type_ids", "a sequence of segment numbers, none of them negative, or None")
    };
    let token_type_ids = types.map(read_types).transpose()?;
    let params: PoolingParams = argument(&params, "params", "a rustllm._core.PoolingParams")?;
    Ok(PoolingRequest {
        request_id: argument(&request_id, "request_id", "a str")?,
        prompt_token_ids: prompt.into(),
        token_type_ids: token_type_ids.map(Into::into),
        params: params.0,
        priority: argument(&priority, "priority", "an int of 32 bits")?,
        cache_salt: cache_salt.map(|salt| argument(&salt, "cache_salt", "a str or None")).transpose()?,
    })
}

/// A float32 array: one vector, or a row for each token.
pub(crate) fn array(py: Python<'_>, pooled: &Pooled) -> PyResult<Py<PyAny>> {
    let bytes: Vec<u8> = pooled.values.iter().flat_map(|value| value.to_ne_bytes()).collect();
    let numpy = py.import("numpy")?;
    let flat = numpy.call_method1("frombuffer", (PyByteArray::new(py, &bytes), "float32"))?;
    match pooled.rows {
        None => Ok(flat.unbind()),
        Some(rows) => Ok(flat.call_method1("reshape", ((rows, pooled.width),))?.unbind()),
    }
}
