//! What ops share while they run, one at a time: the arena and the threads.

use std::sync::Arc;

use rustllm_ops::{Arena, Error, Result, Tensor, checked_size};

use crate::attend::Work;
use crate::backend::NAME;
use crate::buffer::Buffer;
use crate::pool::Pool;
use crate::simd::LANES;
use crate::view::View;

/// Elements a thread should have to do for waking it to pay.
const WORTH_A_TASK: usize = 16 * 1024;

/// Locked for the length of an op, so that ops on one backend never touch its tensors at once.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) arena: Arena<Buffer>,
    pub(crate) pool: Pool,
    /// Memory for attention's lists of work, kept from op to op.
    pub(crate) work: Work,
    pub(crate) backend: u64,
}

impl Step {
    /// An uninitialized `[rows, cols]` result and its view.
    pub(crate) fn result(&mut self, rows: usize, cols: usize) -> Result<(Tensor, View)> {
        let tensor = Tensor::new(self.buffer(&[rows, cols])?, rows, cols);
        let view = View::new(&tensor, self.backend)?;
        Ok((tensor, view))
    }

    /// Memory for `sizes[0] * sizes[1] * ...` elements, uninitialized.
    pub(crate) fn buffer(&mut self, sizes: &[usize]) -> Result<Arc<Buffer>> {
        let bytes = checked_size(&[checked_size(sizes, "activations")?, size_of::<f32>()], "activations")?;
        self.arena.take(bytes, |bytes| Buffer::of_step(bytes, self.backend))
    }

    /// Memory for every thread, `len` elements each: a buffer to keep alive and the way to a thread's part of it.
    pub(crate) fn scratch(&mut self, len: usize) -> Result<Scratch> {
        let len = len.next_multiple_of(LANES);
        Ok(Scratch { buffer: self.buffer(&[len, self.pool.num_threads()])?, len })
    }

    /// Calls `task(worker, index)` for all indices below `num_tasks` on the pool.
    pub(crate) fn run(&mut self, num_tasks: usize, task: impl Fn(usize, usize) + Sync) -> Result<()> {
        let outcome = self.pool.run(num_tasks, &task);
        outcome.map_err(|panic| Error::Backend { backend: NAME, message: panic.0 })
    }

    /// Calls `row` for all rows, each of about `work` elements, on as many threads as pay.
    pub(crate) fn for_rows(&mut self, rows: usize, work: usize, row: impl Fn(usize) + Sync) -> Result<()> {
        let tasks = (rows * work / WORTH_A_TASK).clamp(1, rows.max(1));
        self.run(tasks, |_, task| (task * rows / tasks..(task + 1) * rows / tasks).for_each(&row))
    }
}

/// Memory of the threads of an op.
#[derive(Debug, Clone)]
pub(crate) struct Scratch {
    buffer: Arc<Buffer>,
    len: usize,
}

impl Scratch {
    /// The part of thread `worker`.
    pub(crate) fn of(&self, worker: usize) -> *mut f32 {
        debug_assert!((worker + 1) * self.len <= self.buffer.capacity());
        self.buffer.as_ptr().wrapping_add(worker * self.len)
    }
}
