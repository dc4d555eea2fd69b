use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use rustllm_cpu::{CpuBackend, CpuOptions};
use rustllm_cuda::{CudaBackend, CudaError, CudaOptions};
use rustllm_ops::{Backend, ReferenceBackend};

use crate::{EngineConfig, EngineError, InvalidArgument};

/// Where an engine computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// GPU 0, if it can be used; else the CPU.
    Auto,
    /// This machine's CPU.
    Cpu,
    /// An NVIDIA GPU, by its number.
    Cuda(usize),
    /// The candle implementation that defines the ops: slow, for comparison.
    Reference,
}

impl FromStr for Device {
    type Err = InvalidArgument;

    fn from_str(name: &str) -> Result<Self, InvalidArgument> {
        let ordinal = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
        match name {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            "reference" => Ok(Self::Reference),
            other => other.strip_prefix("cuda:").and_then(ordinal).map(Self::Cuda).ok_or_else(|| {
                let message = format!("device must be one of auto, cpu, cuda, cuda:<number>, reference, got {other:?}");
                InvalidArgument::new("device", other, message)
            }),
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
            Self::Reference => f.write_str("reference"),
        }
    }
}

/// A backend and how it describes itself.
pub(crate) struct OpenDevice {
    pub backend: Arc<dyn Backend>,
    /// What the device is called.
    pub name: String,
    /// The instruction set of its kernels.
    pub isa: String,
    pub num_threads: usize,
    /// Why there is no GPU in use, where one would have been taken.
    pub why_not_cuda: Option<CudaError>,
}

/// Opens the device that `config` asks for. The one place that knows which backends exist.
pub(crate) fn open(config: &EngineConfig) -> Result<OpenDevice, EngineError> {
    match config.device {
        Device::Auto => match open_cuda(config, 0) {
            Ok(device) => Ok(device),
            Err(error) => Ok(OpenDevice { why_not_cuda: Some(error), ..open_cpu(config)? }),
        },
        Device::Cpu => open_cpu(config),
        Device::Cuda(ordinal) => open_cuda(config, ordinal)
            .map_err(|error| InvalidArgument::new("device", config.device, error.to_string()).into()),
        Device::Reference => Ok(OpenDevice {
            backend: Arc::new(ReferenceBackend),
            name: "reference".into(),
            isa: "candle".into(),
            num_threads: 1,
            why_not_cuda: None,
        }),
    }
}

fn open_cpu(config: &EngineConfig) -> Result<OpenDevice, EngineError> {
    let backend = CpuBackend::new(CpuOptions { num_threads: config.num_threads, isa: None })
        .map_err(|error| InvalidArgument::new("device", "cpu", error.to_string()))?;
    let (isa, num_threads) = (backend.isa().to_string(), backend.num_threads());
    Ok(OpenDevice { backend: Arc::new(backend), name: "CPU".into(), isa, num_threads, why_not_cuda: None })
}

fn open_cuda(config: &EngineConfig, ordinal: usize) -> Result<OpenDevice, CudaError> {
    let backend = CudaBackend::new(CudaOptions { ordinal, deterministic: config.deterministic })?;
    let (major, minor) = backend.compute_capability();
    let (name, isa) = (backend.device_name().to_owned(), format!("sm_{major}{minor}"));
    Ok(OpenDevice { backend: Arc::new(backend), name, isa, num_threads: 1, why_not_cuda: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_names_it_gives_and_names_the_allowed_ones() {
        for device in [Device::Auto, Device::Cpu, Device::Cuda(0), Device::Cuda(3), Device::Reference] {
            assert_eq!(device.to_string().parse(), Ok(device));
        }
        assert_eq!("cuda".parse(), Ok(Device::Cuda(0)));
        for name in ["gpu", "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "CPU"] {
            let error = name.parse::<Device>().unwrap_err();
            let allowed = "device must be one of auto, cpu, cuda, cuda:<number>, reference, got ";
            assert_eq!(error.message, format!("{allowed}{name:?}"));
        }
    }
}
