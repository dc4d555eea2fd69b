use crate::Isa;

/// Why a [`CpuBackend`](crate::CpuBackend) could not be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// A `RUSTLLM_ISA` that names no instruction set.
    #[error("RUSTLLM_ISA must be one of scalar, avx2, avxvnni, avx512, avx512vnni, avx512bf16, neon, got {0:?}")]
    UnknownIsa(String),
    /// An instruction set this machine lacks.
    #[error("this machine cannot run {isa} kernels, it has {}", names(.available))]
    UnavailableIsa {
        /// The instruction set asked for.
        isa: Isa,
        /// What there is.
        available: Vec<Isa>,
    },
    /// A number of threads that is not between 1 and [`MAX_THREADS`](crate::MAX_THREADS).
    #[error("num_threads must be between 1 and {max}, got {given}", max = crate::MAX_THREADS)]
    NumThreads {
        /// What was asked for.
        given: usize,
    },
    /// The operating system refused to start a thread.
    #[error("cannot start a worker thread: {0}")]
    Spawn(String),
}

fn names(isas: &[Isa]) -> String {
    isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}
