use std::collections::{HashMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use crate::{
    Engine, EngineError, EngineOutput, EngineRequest, EngineStats, InvalidArgument, Limits, ModelInfo, PoolingRequest,
};

/// An engine on a thread of its own.
///
/// Requests go in through a queue, what they produce comes out through another, a batch of outputs for every step. The
/// thread sleeps while there is nothing to do. Requests are checked before they are queued, so that a caller hears of a
/// bad one at once and the engine never does.
#[derive(Debug)]
pub struct EngineHandle {
    commands: Sender<Command>,
    outputs: Mutex<Receiver<Vec<EngineOutput>>>,
    /// Sequences of each request whose last output has not been handed over.
    unfinished: Mutex<HashMap<String, u32>>,
    shared: Arc<Shared>,
    limits: Limits,
    info: ModelInfo,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Command {
    Add(Vec<EngineRequest>),
    AddPooling(Vec<PoolingRequest>),
    Abort(Vec<String>),
    AbortSequences(Vec<(String, u32)>),
    ResetPrefixCache(Sender<bool>),
    Shutdown,
}

#[derive(Debug, Default)]
struct Shared {
    stats: Mutex<EngineStats>,
    /// Why the thread ended, once it has.
    death: Mutex<Option<String>>,
}

/// The data stays meaningful when a thread panics while it holds one of these locks: each is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl EngineHandle {
    /// Moves an engine to a thread and starts it.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the system gives no thread.
    pub fn start(engine: Engine) -> Result<Self, EngineError> {
        let (commands, inbox) = channel();
        let (outbox, outputs) = channel();
        let (limits, info) = (engine.limits().clone(), engine.info().clone());
        let shared = Arc::new(Shared::default());
        *lock(&shared.stats) = engine.stats();
        let thread = Builder::new()
            .name("rustllm-engine".into())
            .spawn({
                let shared = shared.clone();
                move || run(engine, &inbox, &outbox, &shared)
            })
            .map_err(|error| EngineError::Dead(format!("cannot start its thread: {error}")))?;
        Ok(Self {
            commands,
            outputs: Mutex::new(outputs),
            unfinished: Mutex::default(),
            shared,
            limits,
            info,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// Queues requests: all of them, or none if one is refused.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for the first request that breaks a rule, [`EngineError::Dead`] when the engine has stopped.
    pub fn add_requests(&self, requests: Vec<EngineRequest>) -> Result<(), EngineError> {
        requests.iter().try_for_each(|request| self.limits.check(request))?;
        let names = requests.iter().map(|request| (request.request_id.clone(), request.params.n)).collect();
        self.send_named(names, Command::Add(requests))
    }

    /// Queues pooling requests: all of them, or none if one is refused.
    ///
    /// # Errors
    /// As [`add_requests`](Self::add_requests).
    pub fn add_pooling_requests(&self, requests: Vec<PoolingRequest>) -> Result<(), EngineError> {
        requests.iter().try_for_each(|request| self.limits.check_pooling(request))?;
        let names = requests.iter().map(|request| (request.request_id.clone(), 1)).collect();
        self.send_named(names, Command::AddPooling(requests))
    }

    /// Sends the requests of these names, with the number of their sequences, unless one of the names is in use.
    fn send_named(&self, names: Vec<(String, u32)>, command: Command) -> Result<(), EngineError> {
        let mut unfinished = lock(&self.unfinished);
        let mut batch = HashSet::new();
        for (id, _) in &names {
            if unfinished.contains_key(id) || !batch.insert(id) {
                let message = format!("request_id {id:?} is already in use");
                return Err(InvalidArgument::new("request_id", id, message).into());
            }
        }
        self.send(command)?;
        unfinished.extend(names);
        Ok(())
    }

    /// Ends requests early. Unknown and finished ones are ignored; the others get a last output that says so.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the engine has stopped.
    pub fn abort(&self, request_ids: Vec<String>) -> Result<(), EngineError> {
        self.send(Command::Abort(request_ids))
    }

    /// Ends some of requests' sequences early, given as (request id, index); the requests' others go on.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the engine has stopped.
    pub fn abort_sequences(&self, sequences: Vec<(String, u32)>) -> Result<(), EngineError> {
        self.send(Command::AbortSequences(sequences))
    }

    /// Waits for the next outputs and returns all there are.
    ///
    /// Returns an empty list at once when nothing is unfinished, and after `timeout` when nothing came.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the engine has stopped before it finished what is unfinished.
    pub fn step(&self, timeout: Option<Duration>) -> Result<Vec<EngineOutput>, EngineError> {
        let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let receiver = lock(&self.outputs);
        let mut outputs = Vec::new();
        while outputs.is_empty() {
            if !self.has_unfinished() {
                return Ok(outputs);
            }
            let received = match deadline {
                Some(deadline) => receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())),
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match received {
                Ok(batch) => outputs = batch,
                Err(RecvTimeoutError::Timeout) => return Ok(outputs),
                Err(RecvTimeoutError::Disconnected) => return Err(self.death()),
            }
            outputs.extend(receiver.try_iter().flatten());
        }
        let mut unfinished = lock(&self.unfinished);
        for output in outputs.iter().filter(|output| output.finish_reason.is_some()) {
            if let Some(left) = unfinished.get_mut(&*output.request_id) {
                *left -= 1;
                if *left == 0 {
                    unfinished.remove(&*output.request_id);
                }
            }
        }
        Ok(outputs)
    }

    /// Whether outputs are still to come.
    pub fn has_unfinished(&self) -> bool {
        self.num_unfinished() > 0
    }

    /// Requests whose outputs have not all been handed over.
    pub fn num_unfinished(&self) -> usize {
        lock(&self.unfinished).len()
    }

    /// Does nothing while requests are taken.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the engine has stopped.
    pub fn check_health(&self) -> Result<(), EngineError> {
        if lock(&self.shared.death).is_some() { Err(self.death()) } else { Ok(()) }
    }

    /// Counters and gauges as of the last step.
    pub fn stats(&self) -> EngineStats {
        *lock(&self.shared.stats)
    }

    /// Forgets cached prefixes; false, and nothing done, while requests run.
    ///
    /// # Errors
    /// [`EngineError::Dead`] when the engine has stopped.
    pub fn reset_prefix_cache(&self) -> Result<bool, EngineError> {
        let (reply, answer) = channel();
        self.send(Command::ResetPrefixCache(reply))?;
        answer.recv().map_err(|_| self.death())
    }

    /// Stops the thread and waits for it. What is unfinished is lost. Idempotent.
    pub fn shutdown(&self) {
        // A thread that has already ended has dropped its end of the queue: nothing is left to stop.
        let _ = self.commands.send(Command::Shutdown);
        if let Some(thread) = lock(&self.thread).take() {
            // The thread catches its own panics and records them in `death`.
            let _ = thread.join();
        }
        lock(&self.unfinished).clear();
    }

    fn send(&self, command: Command) -> Result<(), EngineError> {
        self.commands.send(command).map_err(|_| self.death())
    }

    fn death(&self) -> EngineError {
        EngineError::Dead(lock(&self.shared.death).clone().unwrap_or_else(|| "it was shut down".into()))
    }
}

impl Drop for EngineHandle {
    fn drop(&mut self) {
        self.shutdown();
    }
}

/// The engine thread: take what has been queued, compute a step, hand over what it produced.
fn run(mut engine: Engine, inbox: &Receiver<Command>, outbox: &Sender<Vec<EngineOutput>>, shared: &Shared) {
    let end = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let mut next = if engine.has_unfinished() {
                inbox.try_recv().ok()
            } else {
                match inbox.recv() {
                    Ok(command) => Some(command),
                    Err(_) => return,
                }
            };
            while let Some(command) = next {
                match command {
                    Command::Add(requests) => requests.into_iter().for_each(|request| engine.add_request(request)),
                    Command::AddPooling(requests) => {
                        requests.into_iter().for_each(|request| engine.add_pooling_request(request));
                    }
                    Command::Abort(ids) => ids.iter().for_each(|id| engine.abort(id)),
                    Command::AbortSequences(sequences) => {
                        sequences.iter().for_each(|(id, index)| engine.abort_sequence(id, *index));
                    }
                    Command::ResetPrefixCache(reply) => {
                        // The asker may have gone; the answer then concerns nobody.
                        let _ = reply.send(engine.reset_prefix_cache());
                    }
                    Command::Shutdown => return,
                }
                next = inbox.try_recv().ok();
            }
            if engine.has_unfinished() {
                let outputs = if engine.overlaps_steps() { engine.step_overlapped() } else { engine.step() };
                *lock(&shared.stats) = engine.stats();
                *lock(&shared.death) = engine.lost().map(ToOwned::to_owned);
                if (!outputs.is_empty() && outbox.send(outputs).is_err()) || engine.lost().is_some() {
                    return;
                }
            }
        }
    }));
    let panicked = end.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        text.unwrap_or_else(|| "a panic without a message".into())
    });
    let mut death = lock(&shared.death);
    *death = panicked.or(death.take()).or_else(|| Some("it was shut down".into()));
}
