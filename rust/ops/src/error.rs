use crate::WeightFormat;

/// What an op or a device allocation can fail with.
///
/// Shapes are checked where tensors meet; a kernel never sees operands that do not fit.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Operands whose shapes do not fit together.
    #[error("{op}: {detail}")]
    Shape {
        /// The op that refused.
        op: &'static str,
        /// Which operands, their shapes, and what was expected.
        detail: String,
    },
    /// A weight format or cache dtype the backend has no kernels for.
    #[error("the {backend} backend does not support {format} {what}")]
    UnsupportedFormat {
        /// The backend asked.
        backend: &'static str,
        /// The format asked for.
        format: WeightFormat,
        /// What it was asked for, for example `weights`.
        what: &'static str,
    },
    /// Memory that could not be had.
    #[error("cannot allocate {bytes} bytes for {what}")]
    OutOfMemory {
        /// Size of the allocation.
        bytes: usize,
        /// What it was for.
        what: &'static str,
    },
    /// A tensor that another backend made.
    #[error("a tensor of another backend was given to the {backend} backend")]
    ForeignStorage {
        /// The backend that was asked to compute with it.
        backend: &'static str,
    },
    /// A device that has failed, and computes nothing any more.
    #[error("the {backend} device has failed: {message}")]
    DeviceLost {
        /// The backend whose device it is.
        backend: &'static str,
        /// What the driver said.
        message: String,
    },
    /// A failure inside the library or driver a backend stands on.
    #[error("{backend}: {message}")]
    Backend {
        /// The backend that failed.
        backend: &'static str,
        /// What the library said.
        message: String,
    },
}

/// Result of an op.
pub type Result<T> = std::result::Result<T, Error>;
