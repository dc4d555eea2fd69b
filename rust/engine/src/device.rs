use std::str::FromStr;
use std::sync::Arc;

use rustllm_cpu::{CpuBackend, CpuOptions};
use rustllm_ops::{Backend, ReferenceBackend};

use crate::{EngineError, InvalidArgument};

/// Where an engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// The best device there is: today the CPU.
    Auto,
    /// This machine's CPU.
    Cpu,
    /// The candle implementation that defines the ops: slow, for comparison.
    Reference,
}

impl FromStr for Device {
    type Err = InvalidArgument;

    fn from_str(name: &str) -> Result<Self, InvalidArgument> {
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "reference" => Ok(Self::Reference),
            other => Err(InvalidArgument::new(
                "device",
                other,
                format!("device must be one of auto, cpu, reference, got {other:?}"),
            )),
        }
    }
}

/// A backend and how it describes itself.
pub(crate) struct OpenDevice {
    pub backend: Arc<dyn Backend>,
    pub isa: String,
    pub num_threads: usize,
}

/// Opens a device. The one place that knows which backends exist.
pub(crate) fn open(device: Device, num_threads: Option<usize>) -> Result<OpenDevice, EngineError> {
    match device {
        Device::Auto | Device::Cpu => {
            let backend = CpuBackend::new(CpuOptions { num_threads, isa: None })
                .map_err(|error| InvalidArgument::new("device", "cpu", error.to_string()))?;
            let (isa, num_threads) = (backend.isa().to_string(), backend.num_threads());
            Ok(OpenDevice { backend: Arc::new(backend), isa, num_threads })
        }
        Device::Reference => {
            Ok(OpenDevice { backend: Arc::new(ReferenceBackend), isa: "candle".into(), num_threads: 1 })
        }
    }
}
