//! Work that a device records once and runs again and again: where each step launches the same kernels, one launch for all.
//!
//! ```text
//!   capture([ids, positions, ...], work)      lists in places of their own; `work`'s ops are recorded, not run
//!   launch([ids, positions, ...])             other numbers in the same places, then everything that was recorded
//! ```
//!
//! What `work` computed is in the tensors that it made, as of the last launch. Shapes, and what ops read of lists on the host,
//! are those of the capture: kernels that depend on numbers read them from the device.

use std::fmt::Debug;

use crate::{Indices, Result};

/// A device that can record work.
pub trait Graphs: Debug + Send + Sync {
    /// Records the ops of `work`, which is given `inputs` as indices.
    ///
    /// Each shape `work` computes with should have been computed once before, so that nothing is loaded or looked up while it is
    /// recorded.
    ///
    /// # Errors
    /// What `work` fails with, no memory, or a device failure.
    fn capture(
        &self,
        inputs: Vec<Vec<u32>>,
        work: &mut dyn FnMut(&[Indices]) -> Result<()>,
    ) -> Result<Box<dyn CapturedGraph>>;
}

/// Recorded work.
pub trait CapturedGraph: Debug + Send + Sync {
    /// Runs the work on lists of the lengths it was captured with.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for lists of other lengths, or a device failure.
    fn launch(&self, inputs: &[&[u32]]) -> Result<()>;
}
