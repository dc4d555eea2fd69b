use std::sync::Arc;

use rustllm_core::{
    FinishReason, PoolingInput, Request, SamplingParams, Scheduler, SchedulerOutput, SeqId, Sequence, SequenceUpdate,
};
use rustllm_ops::Error;

use crate::model_runner::{ModelRunner, SampledRow};
use crate::overlapped::StepUnderWay;
use crate::{EngineOutput, EngineRequest, EngineStats, Limits, ModelInfo, PoolingRequest};

/// A scheduler and a model, stepped by hand. [`EngineHandle`](crate::EngineHandle) steps one on a thread.
#[derive(Debug)]
pub struct Engine {
    pub(crate) scheduler: Scheduler,
    pub(crate) runner: ModelRunner,
    limits: Limits,
    info: ModelInfo,
    seed: u64,
    num_requests: u64,
    pub(crate) num_steps: u64,
    prompt_tokens: u64,
    generation_tokens: u64,
    /// Last outputs of sequences that ended outside a step.
    pub(crate) ended: Vec<EngineOutput>,
    /// Of the overlapped loop.
    pub(crate) under_way: Option<StepUnderWay>,
    overlaps: bool,
    /// Why nothing can be computed any more.
    lost: Option<String>,
}

impl Engine {
    /// An engine without requests. `overlaps` as [`overlaps_steps`](Self::overlaps_steps) tells it.
    pub(crate) fn new(
        scheduler: Scheduler,
        runner: ModelRunner,
        (info, limits): (ModelInfo, Limits),
        seed: u64,
        overlaps: bool,
    ) -> Self {
        Self {
            scheduler,
            runner,
            limits,
            info,
            seed,
            num_requests: 0,
            num_steps: 0,
            prompt_tokens: 0,
            generation_tokens: 0,
            ended: Vec::new(),
            under_way: None,
            overlaps,
            lost: None,
        }
    }

    /// What is loaded.
    pub fn info(&self) -> &ModelInfo {
        &self.info
    }

    /// What a request must keep to.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Queues a request that has passed [`Limits::check`]. One that the scheduler still refuses ends with an error output.
    pub fn add_request(&mut self, request: EngineRequest) {
        self.num_requests += 1;
        // Requests without a seed draw from streams of their own, reproducible from the engine's seed.
        let seed = request.params.seed.unwrap_or_else(|| mix(self.seed ^ mix(self.num_requests)));
        let (name, n) = (Arc::<str>::from(request.request_id.as_str()), request.params.n);
        let request = Request {
            request_id: request.request_id,
            prompt_token_ids: request.prompt_token_ids,
            params: request.params,
            priority: request.priority,
            cache_salt: request.cache_salt,
            seed,
            pooling: None,
        };
        self.queue(request, name, n);
    }

    /// Queues a pooling request that has passed [`Limits::check_pooling`].
    pub fn add_pooling_request(&mut self, request: PoolingRequest) {
        let name = Arc::<str>::from(request.request_id.as_str());
        let input = PoolingInput {
            skip_reading_prefix_cache: self.runner.reads_every_row(request.params.task),
            params: request.params,
            token_type_ids: request.token_type_ids,
        };
        let request = Request {
            request_id: request.request_id,
            prompt_token_ids: request.prompt_token_ids,
            params: Arc::new(SamplingParams::default()),
            priority: request.priority,
            cache_salt: request.cache_salt,
            seed: 0,
            pooling: Some(Arc::new(input)),
        };
        self.queue(request, name, 1);
    }

    fn queue(&mut self, request: Request, name: Arc<str>, n: u32) {
        self.prompt_tokens += request.prompt_token_ids.len() as u64;
        if let Err(error) = self.scheduler.add_request(request) {
            self.ended.extend((0..n).map(|index| EngineOutput {
                error: Some(error.to_string()),
                ..ended_output(name.clone(), index, FinishReason::Error)
            }));
        }
    }

    /// Ends a request now; its sequences' last outputs come with the next step.
    pub fn abort(&mut self, request_id: &str) {
        for seq_id in self.scheduler.abort(request_id) {
            self.end_aborted(seq_id);
        }
    }

    /// Ends one of a request's sequences now; its last output comes with the next step.
    pub fn abort_sequence(&mut self, request_id: &str, index: u32) {
        if let Some(seq_id) = self.scheduler.abort_sequence(request_id, index) {
            self.end_aborted(seq_id);
        }
    }

    fn end_aborted(&mut self, seq_id: SeqId) {
        self.runner.forget(seq_id);
        if let Some(sequence) = self.scheduler.sequence(seq_id) {
            self.ended.push(EngineOutput {
                num_cached_tokens: sequence.num_cached_tokens(),
                num_preemptions: sequence.num_preemptions(),
                ..ended_output(sequence.request_id().clone(), sequence.index(), FinishReason::Abort)
            });
        }
    }

    /// Whether a step would do or hand over anything.
    pub fn has_unfinished(&self) -> bool {
        self.scheduler.has_unfinished() || !self.ended.is_empty() || self.under_way.is_some()
    }

    /// Whether [`step_overlapped`](Self::step_overlapped) gains anything on this device, and is not switched off.
    pub fn overlaps_steps(&self) -> bool {
        self.overlaps
    }

    /// Why the device computes nothing any more, if it has failed. Sequences that a step finds then end with an error.
    pub fn lost(&self) -> Option<&str> {
        self.lost.as_deref()
    }

    /// One step: decide, compute, record. Returns what every sequence that got a token or ended produced.
    ///
    /// A step whose computation fails ends the sequences that were in it, with `error`, and no others.
    pub fn step(&mut self) -> Vec<EngineOutput> {
        self.num_steps += 1;
        let mut outputs = std::mem::take(&mut self.ended);
        let scheduled = self.scheduler.schedule();
        if scheduled.sequences.is_empty() {
            return outputs;
        }
        match self.runner.execute(&self.scheduler, &scheduled) {
            Ok(rows) => self.record(&scheduled, rows, &mut outputs),
            Err(error) => self.fail(&scheduled, &error, &mut outputs),
        }
        outputs
    }

    /// Counters and gauges.
    pub fn stats(&self) -> EngineStats {
        let scheduler = self.scheduler.stats();
        EngineStats {
            num_running: self.scheduler.num_running(),
            num_waiting: self.scheduler.num_waiting(),
            num_blocks: self.info.kv_cache.num_blocks,
            num_free_blocks: scheduler.num_free_blocks.min(self.info.kv_cache.num_blocks),
            num_preemptions: scheduler.num_preemptions,
            num_steps: self.num_steps,
            prompt_tokens: self.prompt_tokens,
            generation_tokens: self.generation_tokens,
            prefix_cache_queries: scheduler.prefix_cache_queries,
            prefix_cache_hits: scheduler.prefix_cache_hits,
        }
    }

    /// Forgets cached prefixes; false, and nothing done, while requests run.
    pub fn reset_prefix_cache(&mut self) -> bool {
        self.finish_step_under_way();
        self.scheduler.reset_prefix_cache()
    }

    /// Recounts every block. For tests.
    pub fn check_integrity(&self) {
        self.scheduler.check_integrity();
    }

    /// Ends the sequences of a step that could not be computed.
    pub(crate) fn fail(&mut self, scheduled: &SchedulerOutput, error: &Error, outputs: &mut Vec<EngineOutput>) {
        if let Error::DeviceLost { .. } = error {
            self.lost.get_or_insert_with(|| error.to_string());
        }
        for update in self.scheduler.fail_step(scheduled) {
            let output = self.output(update, SampledRow::default());
            outputs.push(EngineOutput { error: Some(error.to_string()), ..output });
        }
    }

    /// Gives the scheduler its tokens and writes down what came of every sequence.
    pub(crate) fn record(
        &mut self,
        scheduled: &SchedulerOutput,
        rows: Vec<SampledRow>,
        outputs: &mut Vec<EngineOutput>,
    ) {
        let tokens: Vec<Option<u32>> = rows.iter().map(SampledRow::token_id).collect();
        for (entry, row) in scheduled.sequences.iter().zip(&rows) {
            // Where a token was due, the scheduler takes its absence for the failure it is.
            if let Some(error) = row.error().filter(|_| !entry.samples || row.pooled.is_some()) {
                let update = self.scheduler.finish_with_error(entry.seq_id);
                let output = update.map(|update| self.output(update, SampledRow::default()));
                outputs.extend(output.map(|output| EngineOutput { error: Some(error), ..output }));
            }
        }
        // Updates come in the order of the rows, but not for every row.
        let mut rows = scheduled.sequences.iter().zip(rows);
        for update in self.scheduler.update(scheduled, &tokens) {
            let row = rows.find(|(entry, _)| entry.seq_id == update.seq_id).map(|(_, row)| row);
            outputs.push(self.output(update, row.unwrap_or_default()));
        }
    }

    /// What a sequence got from a step, or ended with.
    fn output(&mut self, update: SequenceUpdate, row: SampledRow) -> EngineOutput {
        self.generation_tokens += u64::from(update.token_id.is_some());
        if update.finish.is_some() {
            self.runner.forget(update.seq_id);
        }
        let sequence = self.scheduler.sequence(update.seq_id);
        let error = row.error();
        EngineOutput {
            request_id: update.request_id,
            index: update.index,
            token_id: update.token_id,
            logprobs: row.sampled.and_then(Result::ok).and_then(|token| token.logprobs),
            prompt_logprobs: row.prompt_logprobs,
            pooled: row.pooled.and_then(Result::ok),
            finish_reason: update.finish,
            error,
            num_cached_tokens: sequence.map_or(0, Sequence::num_cached_tokens),
            num_preemptions: sequence.map_or(0, Sequence::num_preemptions),
        }
    }
}

fn ended_output(request_id: Arc<str>, index: u32, reason: FinishReason) -> EngineOutput {
    EngineOutput {
        request_id,
        index,
        token_id: None,
        logprobs: None,
        prompt_logprobs: None,
        pooled: None,
        finish_reason: Some(reason),
        error: None,
        num_cached_tokens: 0,
        num_preemptions: 0,
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood, 2014): neighbouring inputs to unrelated outputs.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
