//! The machine's limits, measured with the pool and the instruction set that ops run on: what benchmarks compare with.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "kernels: pointers are valid for what the sizes say, the CPU has the features"
)]

use std::time::Instant;

use rustllm_ops::Result;

use crate::CpuBackend;
use crate::gemm::ByteDot;
use crate::memory::AlignedBytes;
use crate::simd::{LANES, Simd};

/// Independent chains of multiply-adds: enough to hide their latency, few enough to stay in registers.
const CHAINS: usize = 10;

/// Times each limit is measured; the best counts.
const REPEATS: usize = 5;

/// `iterations` times [`CHAINS`] multiply-adds on registers; the result goes to `to` so that none is left out.
#[inline(always)]
pub(crate) unsafe fn multiply_adds<S: Simd>(iterations: usize, to: *mut f32) {
    let (factor, term) = (S::load(to), S::load(to));
    let mut chains = [S::splat(0.0); CHAINS];
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = S::mul_add(*chain, factor, term);
        }
    }
    let mut sum = S::splat(0.0);
    for chain in chains {
        sum = S::add(sum, chain);
    }
    S::store(to, sum);
}

/// `iterations` times [`CHAINS`] sums of four products of bytes a lane, as [`multiply_adds`] does float32.
#[inline(always)]
pub(crate) unsafe fn byte_dots<S: Simd, D: ByteDot<S>>(iterations: usize, to: *mut f32) {
    let (w, x) = (S::load_words(to.cast()), S::load_words(to.cast()));
    let mut chains = [S::splat_i32(0); CHAINS];
    for _ in 0..iterations {
        for chain in &mut chains {
            *chain = D::dot(w, x, *chain);
        }
    }
    let mut sum = S::splat(0.0);
    for chain in chains {
        sum = S::add(sum, S::to_f32(chain));
    }
    S::store(to, sum);
}

/// Reads `n` elements, a multiple of 64, as four streams.
#[inline(always)]
pub(crate) unsafe fn read<S: Simd>(from: *const f32, n: usize, to: *mut f32) {
    let mut sums = [S::splat(0.0); 4];
    for i in (0..n / 4).step_by(LANES) {
        for (j, sum) in sums.iter_mut().enumerate() {
            *sum = S::add(*sum, S::load(from.add(j * (n / 4) + i)));
        }
    }
    S::store(to, S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
}

impl CpuBackend {
    /// Float32 operations a second (a multiply-add is two) that all threads reach on registers.
    ///
    /// # Errors
    /// A failure of the thread pool.
    pub fn measure_peak_flops(&self) -> Result<f64> {
        const ITERATIONS: usize = 400_000;
        let threads = self.num_threads();
        let kernel = self.kernels().multiply_adds;
        self.best_rate((threads * ITERATIONS * CHAINS * LANES * 2) as f64, threads, |_| {
            let mut lanes = [0.5f32; LANES];
            // SAFETY: sixteen elements, and the kernels of this machine.
            unsafe { kernel(ITERATIONS, lanes.as_mut_ptr()) };
            assert!(lanes[0].is_finite());
        })
    }

    /// Operations a second on bytes (a multiplication and an addition are two) that all threads reach on registers.
    ///
    /// # Errors
    /// A failure of the thread pool.
    pub fn measure_peak_int8_ops(&self) -> Result<f64> {
        const ITERATIONS: usize = 400_000;
        let threads = self.num_threads();
        let kernel = self.kernels().byte_dots;
        self.best_rate((threads * ITERATIONS * CHAINS * LANES * 8) as f64, threads, |_| {
            let mut lanes = [0.5f32; LANES];
            // SAFETY: sixteen elements, and the kernels of this machine.
            unsafe { kernel(ITERATIONS, lanes.as_mut_ptr()) };
            assert!(lanes[0].is_finite());
        })
    }

    /// Bytes a second that all threads together read from `bytes` of memory.
    ///
    /// # Errors
    /// No memory, or a failure of the thread pool.
    pub fn measure_read_bandwidth(&self, bytes: usize) -> Result<f64> {
        const TASK: usize = 1 << 20;
        let buffer = AlignedBytes::zeroed(bytes.next_multiple_of(TASK), "a bandwidth measurement")?;
        // Zero pages are one page until they are written.
        // SAFETY: all of the buffer, which is this function's.
        unsafe { buffer.as_ptr().write_bytes(1, buffer.len()) };
        let kernel = self.kernels().read;
        let buffer = &buffer;
        self.best_rate(buffer.len() as f64, buffer.len() / TASK, |task| {
            let mut lanes = [0.0f32; LANES];
            let from = buffer.as_ptr().wrapping_add(task * TASK).cast::<f32>();
            // SAFETY: a task's bytes lie in the buffer, and the kernels are this machine's.
            unsafe { kernel(from, TASK / size_of::<f32>(), lanes.as_mut_ptr()) };
            assert!(lanes[0].is_finite());
        })
    }

    fn best_rate(&self, amount: f64, num_tasks: usize, task: impl Fn(usize) + Sync) -> Result<f64> {
        let mut best = f64::INFINITY;
        for _ in 0..REPEATS {
            let start = Instant::now();
            self.step().run(num_tasks, |_, index| task(index))?;
            best = best.min(start.elapsed().as_secs_f64());
        }
        Ok(amount / best)
    }
}

#[cfg(test)]
mod tests {
    use crate::{CpuBackend, CpuOptions};

    #[test]
    fn measures_something() {
        let backend = CpuBackend::new(CpuOptions { num_threads: Some(2), isa: None }).unwrap();
        assert!(backend.measure_peak_flops().unwrap() > 1e6);
        assert!(backend.measure_peak_int8_ops().unwrap() > 1e6);
        assert!(backend.measure_read_bandwidth(1 << 20).unwrap() > 1e6);
    }
}
