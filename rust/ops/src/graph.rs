//! Work that a device records once and runs again and again: where each step launches the same kernels, one launch for all.
//!
//! ```text
//!   capture([ids, positions, ...], work)      lists in places of their own; `work`'s ops are recorded, not run
//!   launch([ids, positions, ...])             other numbers in the same places, then everything that was recorded
//! ```
//!
//! Shapes, and what ops read of lists on the host, are those of the capture: kernels that depend on numbers read them from the
//! device.

use std::fmt::Debug;

use crate::{Indices, Result, Tensor};

/// The ops to record: from indices to what is wanted of them.
pub type Work<'a> = &'a mut dyn FnMut(&[Indices]) -> Result<Vec<Tensor>>;

/// A device that can record work.
pub trait Graphs: Debug + Send + Sync {
    /// Records the ops of `work`, which is given `inputs` as indices. The tensors that it returns are filled by each launch, until
    /// any graph of this backend is launched: graphs share the memory that they compute in.
    ///
    /// Each shape `work` computes with should have been computed once before, so that nothing is loaded or looked up while it is
    /// recorded.
    ///
    /// # Errors
    /// What `work` fails with, no memory, or a device failure.
    fn capture(&self, inputs: Vec<Vec<u32>>, work: Work<'_>) -> Result<(Box<dyn CapturedGraph>, Vec<Tensor>)>;
}

/// Recorded work.
pub trait CapturedGraph: Debug + Send + Sync {
    /// Runs the work on lists of the lengths it was captured with.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for lists of other lengths, or a device failure.
    fn launch(&self, inputs: &[&[u32]]) -> Result<()>;
}
