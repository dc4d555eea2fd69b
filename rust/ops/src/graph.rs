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

    /// The ids of a step whose tokens are not on the host yet: `ids[i]`, or where `rows[i]` is not [`NO_ROW`] the token that this
    /// row of `tokens`, `[rows, 2]` as [`Backend::argmax`](crate::Backend::argmax) gives them, holds when the op runs.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for lists of two lengths, or a device failure.
    fn chained_ids(&self, ids: &Indices, rows: &Indices, tokens: &Tensor) -> Result<Indices>;

    /// Copies `tokens`, `[rows, 2]`, to a tensor of that shape which the next step's [`chained_ids`](Self::chained_ids) reads.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for another shape, or a device failure.
    fn keep(&self, tokens: &Tensor, to: &Tensor) -> Result<()>;

    /// A reader of tensors of up to `most` elements.
    ///
    /// # Errors
    /// No memory, or a device failure.
    fn reader(&self, most: usize) -> Result<Box<dyn RowReader>>;
}

/// No row of a step before: see [`Graphs::chained_ids`].
pub const NO_ROW: u32 = u32::MAX;

/// Copies a tensor to the host while the device goes on.
pub trait RowReader: Debug + Send {
    /// Begins to copy `x`, a tensor without gaps, once the work submitted so far is done. What was read before is forgotten.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for a tensor too large, or a device failure.
    fn start(&mut self, x: &Tensor) -> Result<()>;

    /// Waits for what was begun last, and for no work submitted after it: row after row.
    ///
    /// # Errors
    /// A device failure.
    fn wait(&mut self) -> Result<&[f32]>;
}

/// Recorded work.
pub trait CapturedGraph: Debug + Send + Sync {
    /// Runs the work on lists of the lengths it was captured with.
    ///
    /// # Errors
    /// [`Error::Shape`](crate::Error::Shape) for lists of other lengths, or a device failure.
    fn launch(&self, inputs: &[&[u32]]) -> Result<()>;
}
