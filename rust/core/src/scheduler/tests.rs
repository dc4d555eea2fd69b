//! One test for each rule. Blocks of 4 tokens, so that the pictures stay small.

mod ahead;
mod door;
mod order;
mod pooling;
mod prefix;
mod stop;
mod windows;

use super::*;
use crate::block_pool::BlockId;
use crate::sampling_params::SamplingParams;

const EOS: u32 = 99;

/// Settings of a test: room for everything unless it says otherwise.
struct Setup(SchedulerConfig);

fn setup() -> Setup {
    Setup(SchedulerConfig {
        max_num_seqs: 16,
        max_num_batched_tokens: 1000,
        max_model_len: 64,
        block_size: 4,
        num_blocks: 100,
        sliding_windows: vec![None],
        enable_prefix_caching: true,
        enable_chunked_prefill: true,
        policy: SchedulingPolicy::Fcfs,
        eos_token_ids: vec![EOS],
    })
}

impl Setup {
    fn seqs(mut self, max_num_seqs: usize) -> Self {
        self.0.max_num_seqs = max_num_seqs;
        self
    }

    fn budget(mut self, max_num_batched_tokens: usize) -> Self {
        self.0.max_num_batched_tokens = max_num_batched_tokens;
        self
    }

    fn model_len(mut self, max_model_len: usize) -> Self {
        self.0.max_model_len = max_model_len;
        self
    }

    fn blocks(mut self, num_blocks: usize) -> Self {
        self.0.num_blocks = num_blocks;
        self
    }

    fn windows(mut self, sliding_windows: &[Option<usize>]) -> Self {
        self.0.sliding_windows = sliding_windows.to_vec();
        self
    }

    fn uncached(mut self) -> Self {
        self.0.enable_prefix_caching = false;
        self
    }

    fn priority(mut self) -> Self {
        self.0.policy = SchedulingPolicy::Priority;
        self
    }

    fn build(self) -> Scheduler {
        Scheduler::new(self.0).expect("valid settings")
    }
}

/// A request with a prompt of `len` tokens, all of them `first`, `first + 1`, ...
fn request(id: &str, first: u32, len: usize) -> Request {
    Request {
        request_id: id.to_owned(),
        prompt_token_ids: (first..first + len as u32).collect(),
        params: Arc::new(SamplingParams { max_tokens: Some(10), ..SamplingParams::default() }),
        priority: 0,
        cache_salt: None,
        seed: 0,
        pooling: None,
    }
}

impl Request {
    fn params(mut self, change: impl FnOnce(&mut SamplingParams)) -> Self {
        change(Arc::make_mut(&mut self.params));
        self
    }

    fn at_priority(mut self, priority: i32) -> Self {
        self.priority = priority;
        self
    }

    fn salted(mut self, salt: &str) -> Self {
        self.cache_salt = Some(salt.to_owned());
        self
    }
}

impl Scheduler {
    fn with(mut self, requests: impl IntoIterator<Item = Request>) -> Self {
        requests.into_iter().for_each(|request| self.add_request(request).expect("valid request"));
        self
    }

    /// Samples `token` for every sequence that samples.
    fn sample(&mut self, output: &SchedulerOutput, token: u32) -> Vec<SequenceUpdate> {
        let sampled: Vec<_> = output.sequences.iter().map(|scheduled| scheduled.samples.then_some(token)).collect();
        self.update(output, &sampled)
    }

    /// One whole step; every sequence that samples gets token 50.
    fn step(&mut self) -> SchedulerOutput {
        let output = self.schedule();
        self.sample(&output, 50);
        output
    }

    /// What a step computes: (request, first position, number of tokens).
    fn chunks(&self, output: &SchedulerOutput) -> Vec<(String, usize, usize)> {
        let chunk = |scheduled: &ScheduledSequence| {
            let sequence = self.sequence(scheduled.seq_id).expect("scheduled sequences are readable");
            (sequence.request_id().to_string(), scheduled.num_computed_tokens, scheduled.num_tokens)
        };
        output.sequences.iter().map(chunk).collect()
    }

    /// A step and what it computes.
    fn step_chunks(&mut self) -> Vec<(String, usize, usize)> {
        let output = self.schedule();
        let chunks = self.chunks(&output);
        self.sample(&output, 50);
        chunks
    }

    fn only_id(&self, request_id: &str) -> SeqId {
        self.requests[request_id].seq_ids[0]
    }
}

fn chunks(expected: &[(&str, usize, usize)]) -> Vec<(String, usize, usize)> {
    expected.iter().map(|(id, start, len)| ((*id).to_owned(), *start, *len)).collect()
}
