//! The thread pool: tasks of one op spread over persistent workers.
//!
//! ```text
//!   state word    generation (32 bits) | open | joined workers
//!
//!   caller   open generation g ── wake ── take tasks ── close g ── wait until joined = 0
//!   worker            see g open ── joined + 1 ── take tasks ── joined - 1
//!   tasks             an atomic counter: whoever is free takes the next one
//! ```
//!
//! A worker that wakes too late finds the generation closed and does not join, so an op never waits for a thread that
//! the system did not schedule. Idle workers spin for a moment, for the next op is usually microseconds away, then park.

use std::any::Any;
use std::cell::UnsafeCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crate::CpuError;

/// Most threads a pool has.
pub const MAX_THREADS: usize = 1024;

/// How long a thread looks for work, or for the others to finish, before it sleeps.
const SPIN: Duration = Duration::from_micros(40);

const OPEN: u64 = 1 << 31;
const JOINED: u64 = OPEN - 1;
const GENERATION: u64 = 1 << 32;

/// Threads to use unless told otherwise: `OMP_NUM_THREADS`, as other numeric libraries read it, else what the machine, the
/// process's affinity and its cgroup quota allow.
pub fn default_num_threads() -> usize {
    let from_environment = std::env::var("OMP_NUM_THREADS").ok().and_then(|value| omp_num_threads(&value));
    let available = || thread::available_parallelism().map_or(1, usize::from);
    from_environment.unwrap_or_else(available).min(MAX_THREADS)
}

/// The number of threads of the outermost level; a value that is none is ignored, as OpenMP does.
fn omp_num_threads(value: &str) -> Option<usize> {
    value.split(',').next()?.trim().parse().ok().filter(|number| *number > 0)
}

/// A task that panicked, with its message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TaskPanicked(pub(crate) String);

type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// One op's tasks. Lives on the caller's stack while its generation is open or joined.
struct Job<'a> {
    task: &'a Task<'a>,
    num_tasks: usize,
    next: AtomicUsize,
    panic: Mutex<Option<String>>,
}

impl Job<'_> {
    /// Takes tasks until none is left.
    fn work(&self, worker: usize) {
        loop {
            let index = self.next.fetch_add(1, Ordering::Relaxed);
            if index >= self.num_tasks {
                return;
            }
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| (self.task)(worker, index))) {
                self.next.store(self.num_tasks, Ordering::Relaxed);
                let mut panic = self.panic.lock().unwrap_or_else(PoisonError::into_inner);
                panic.get_or_insert_with(|| message(payload.as_ref()));
            }
        }
    }
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "a kernel panicked".into())
}

struct Shared {
    state: AtomicU64,
    job: UnsafeCell<*const Job<'static>>,
    stop: AtomicBool,
    asleep: Vec<AtomicBool>,
    /// The thread inside `run`, if it sleeps until the workers have left.
    caller: Mutex<Option<Thread>>,
}

// SAFETY: `job` is written by the one caller of `run` while no generation is open and no worker joined, and read by
// workers that joined after it was opened; the state word's orderings keep the two apart.
unsafe impl Sync for Shared {}
// SAFETY: as above; the pointer is only followed while its job is alive.
unsafe impl Send for Shared {}

impl Shared {
    /// Joins the open generation if it is not `seen`, works, leaves. Returns the generation worked for.
    fn join(&self, worker: usize, seen: u64) -> Option<u64> {
        let state = self.state.load(Ordering::SeqCst);
        let generation = state / GENERATION;
        if state & OPEN == 0 || generation == seen {
            return None;
        }
        self.state.compare_exchange(state, state + 1, Ordering::SeqCst, Ordering::SeqCst).ok()?;
        // SAFETY: joined an open generation, so the caller waits in `run`, with the job, until we leave.
        unsafe { (**self.job.get()).work(worker) };
        let after = self.state.fetch_sub(1, Ordering::SeqCst) - 1;
        if after & (OPEN | JOINED) == 0
            && let Some(caller) = self.caller.lock().unwrap_or_else(PoisonError::into_inner).as_ref()
        {
            caller.unpark();
        }
        Some(generation)
    }

    fn worker(&self, worker: usize) {
        let mut seen = 0;
        while !self.stop.load(Ordering::SeqCst) {
            if let Some(generation) = spin(|| self.join(worker, seen)) {
                seen = generation;
                continue;
            }
            let asleep = &self.asleep[worker - 1];
            asleep.store(true, Ordering::SeqCst);
            // Whoever opens a generation after this line sees the flag and unparks us.
            let state = self.state.load(Ordering::SeqCst);
            let idle = state & OPEN == 0 || state / GENERATION == seen;
            if idle && !self.stop.load(Ordering::SeqCst) {
                thread::park();
            }
            asleep.store(false, Ordering::SeqCst);
        }
    }

    fn has_left(&self) -> Option<()> {
        (self.state.load(Ordering::SeqCst) & JOINED == 0).then_some(())
    }
}

/// Polls until there is a result or [`SPIN`] has passed.
fn spin<T>(mut poll: impl FnMut() -> Option<T>) -> Option<T> {
    let start = Instant::now();
    loop {
        for _ in 0..32 {
            if let Some(result) = poll() {
                return Some(result);
            }
            std::hint::spin_loop();
        }
        if start.elapsed() > SPIN {
            return None;
        }
    }
}

/// Worker threads that, with the thread that calls [`run`](Self::run), compute one op at a time.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("num_threads", &self.num_threads()).finish()
    }
}

impl Pool {
    /// A pool that computes on `num_threads` threads, the caller's included.
    pub(crate) fn new(num_threads: usize) -> Result<Self, CpuError> {
        if num_threads == 0 || num_threads > MAX_THREADS {
            return Err(CpuError::NumThreads { given: num_threads });
        }
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new(std::ptr::null()),
            stop: AtomicBool::new(false),
            asleep: (1..num_threads).map(|_| AtomicBool::new(false)).collect(),
            caller: Mutex::new(None),
        });
        let mut pool = Self { shared, workers: Vec::new() };
        for worker in 1..num_threads {
            let shared = Arc::clone(&pool.shared);
            let handle = thread::Builder::new()
                .name(format!("rustllm-cpu-{worker}"))
                .spawn(move || shared.worker(worker))
                .map_err(|error| CpuError::Spawn(error.to_string()))?;
            pool.workers.push(handle);
        }
        Ok(pool)
    }

    /// Threads that compute, the caller's included.
    pub(crate) fn num_threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(worker, index)` for every index below `num_tasks`, in any order, on any thread, `worker` below
    /// [`num_threads`](Self::num_threads) telling the threads apart. Not to be called from inside a task.
    pub(crate) fn run(&mut self, num_tasks: usize, task: &Task<'_>) -> Result<(), TaskPanicked> {
        let job = Job { task, num_tasks, next: AtomicUsize::new(0), panic: Mutex::new(None) };
        if num_tasks > 1 && !self.workers.is_empty() {
            self.run_shared(&job);
        } else {
            job.work(0);
        }
        match job.panic.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(message) => Err(TaskPanicked(message)),
            None => Ok(()),
        }
    }

    fn run_shared(&self, job: &Job<'_>) {
        let shared = &*self.shared;
        let generation = (shared.state.load(Ordering::SeqCst) / GENERATION + 1) & u64::from(u32::MAX);
        // SAFETY: `&mut self` in `run` makes this the only caller; the last one left the generation closed with nobody
        // joined, so no worker reads the pointer.
        unsafe { *shared.job.get() = std::ptr::from_ref(job).cast() };
        shared.state.store((generation * GENERATION) | OPEN, Ordering::SeqCst);
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers).take(job.num_tasks - 1) {
            if asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        job.work(0);
        shared.state.fetch_and(!OPEN, Ordering::SeqCst);
        if spin(|| shared.has_left()).is_none() {
            *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread::current());
            while shared.has_left().is_none() {
                thread::park();
            }
            *shared.caller.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker catches the panics of tasks; there is none of its own to report.
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_every_task_once_however_often_it_is_called() {
        for num_threads in [1, 2, 3, 5] {
            let mut pool = Pool::new(num_threads).unwrap();
            for round in 0..300 {
                let num_tasks = round % 17;
                let counts: Vec<AtomicUsize> = (0..num_tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(num_tasks, &|worker, index| {
                    assert!(worker < num_threads);
                    counts[index].fetch_add(1, Ordering::Relaxed);
                })
                .unwrap();
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
            }
        }
    }

    #[test]
    fn wakes_workers_that_sleep() {
        let mut pool = Pool::new(3).unwrap();
        for _ in 0..20 {
            // Two tasks that wait for each other need two threads; the workers are given time to park before.
            while !pool.shared.asleep.iter().all(|asleep| asleep.load(Ordering::SeqCst)) {
                thread::yield_now();
            }
            let barrier = std::sync::Barrier::new(2);
            pool.run(2, &|_, _| {
                barrier.wait();
            })
            .unwrap();
        }
    }

    #[test]
    fn a_panic_is_an_error_and_the_pool_goes_on() {
        for num_threads in [1, 3] {
            let mut pool = Pool::new(num_threads).unwrap();
            let error = pool.run(50, &|_, index| assert!(index != 7, "task {index}")).unwrap_err();
            assert_eq!(error, TaskPanicked("task 7".into()));
            let done = AtomicUsize::new(0);
            pool.run(50, &|_, _| {
                done.fetch_add(1, Ordering::Relaxed);
            })
            .unwrap();
            assert_eq!(done.into_inner(), 50);
        }
    }

    #[test]
    fn reads_openmp_s_variable() {
        assert_eq!(omp_num_threads("3"), Some(3));
        assert_eq!(omp_num_threads(" 8,4,1"), Some(8));
        for ignored in ["", "0", "-2", "many"] {
            assert_eq!(omp_num_threads(ignored), None);
        }
    }

    #[test]
    fn refuses_no_threads_and_too_many() {
        assert_eq!(Pool::new(0).unwrap_err(), CpuError::NumThreads { given: 0 });
        assert!(Pool::new(MAX_THREADS + 1).is_err());
    }
}
