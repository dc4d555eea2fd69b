//! The scheduler's own time: what a step costs beside the model.
//!
//! `cargo bench --bench scheduler` prints the time of one iteration: one step (`schedule` and `update`), one admission
//! of 256 prompts, or one round of the block pool over 1024 blocks.

use std::hint::black_box;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use rustllm::core::{
    BlockHash, BlockId, BlockPool, Request, SamplingParams, Scheduler, SchedulerConfig, SchedulingPolicy,
};

const NUM_SEQS: usize = 256;
const PROMPT_LEN: usize = 1024;
const BLOCK_SIZE: usize = 16;
const POOL_ROUND: usize = 1024;

fn scheduler(max_num_batched_tokens: usize) -> Scheduler {
    Scheduler::new(SchedulerConfig {
        max_num_seqs: NUM_SEQS,
        max_num_batched_tokens,
        max_model_len: 1 << 20,
        block_size: BLOCK_SIZE,
        num_blocks: 1 << 17,
        sliding_windows: vec![None],
        enable_prefix_caching: true,
        enable_chunked_prefill: true,
        policy: SchedulingPolicy::Fcfs,
        eos_token_ids: vec![2],
    })
    .expect("valid settings")
}

/// A prompt whose first `shared` tokens are the same for all requests.
fn request(number: usize, prompt_len: usize, shared: usize) -> Request {
    let token = |position: usize| if position < shared { position } else { position + 7919 * (number + 1) };
    let params = SamplingParams { max_tokens: None, ..SamplingParams::default() };
    Request {
        request_id: format!("request-{number}"),
        prompt_token_ids: (0..prompt_len).map(|position| token(position) as u32).collect(),
        params: Arc::new(params),
        priority: 0,
        cache_salt: None,
        seed: 0,
        pooling: None,
    }
}

fn step(scheduler: &mut Scheduler) -> usize {
    let output = scheduler.schedule();
    let sampled: Vec<_> = output.sequences.iter().map(|scheduled| scheduled.samples.then_some(5)).collect();
    scheduler.update(&output, &sampled).len()
}

/// 256 sequences that decode; every 16th step of each fills a block, which is hashed and registered.
fn decode(criterion: &mut Criterion) {
    let start = || {
        let mut scheduler = scheduler(1 << 20);
        for number in 0..NUM_SEQS {
            // Lengths that differ, so that block boundaries spread over the steps as they do in service.
            scheduler.add_request(request(number, 128 + number, 0)).expect("valid request");
        }
        assert_eq!(step(&mut scheduler), NUM_SEQS);
        scheduler
    };
    criterion.bench_function("decode step, 256 running sequences", |bencher| {
        let mut running = start();
        bencher.iter(|| {
            if running.stats().num_free_blocks < NUM_SEQS {
                running = start();
            }
            black_box(step(&mut running))
        });
    });
}

fn admission(criterion: &mut Criterion) {
    for (name, shared) in [("nothing shared", 0), ("960 tokens shared", 960), ("all cached", PROMPT_LEN)] {
        let requests: Vec<_> = (0..NUM_SEQS).map(|number| request(number, PROMPT_LEN, shared)).collect();
        criterion.bench_function(&format!("admission of 256 x 1024-token prompts, {name}"), |bencher| {
            let fresh = || (scheduler(1 << 20), requests.clone());
            bencher.iter_batched(
                fresh,
                |(mut scheduler, requests)| {
                    requests.into_iter().for_each(|request| scheduler.add_request(request).expect("valid request"));
                    assert_eq!(step(&mut scheduler), NUM_SEQS);
                    scheduler
                },
                BatchSize::PerIteration,
            );
        });
    }
}

fn block_pool(criterion: &mut Criterion) {
    let mut pool = BlockPool::new(POOL_ROUND as u32);
    let mut held: Vec<BlockId> = Vec::with_capacity(POOL_ROUND);
    criterion.bench_function("1024 blocks allocated and freed", |bencher| {
        bencher.iter(|| {
            held.extend(std::iter::from_fn(|| pool.allocate()));
            held.drain(..).for_each(|id| pool.release(id));
        });
    });
    let hashes: Vec<_> = (0..POOL_ROUND as u32).map(|content| BlockHash::root(None).chain(&[content])).collect();
    criterion.bench_function("1024 blocks allocated, cached, freed and evicted", |bencher| {
        bencher.iter(|| {
            held.extend(std::iter::from_fn(|| pool.allocate()));
            held.iter().zip(&hashes).for_each(|(id, hash)| assert!(pool.register(*id, *hash)));
            held.drain(..).for_each(|id| pool.release(id));
        });
    });
    criterion.bench_function("1024 cached blocks hit and released", |bencher| {
        bencher.iter(|| {
            for hash in &hashes {
                pool.share(pool.lookup(hash).expect("cached"));
            }
            (0..POOL_ROUND as u32).for_each(|id| pool.release(BlockId(id)));
        });
    });
    let tokens: Vec<u32> = (0..BLOCK_SIZE as u32).collect();
    criterion.bench_function("hash of a block of 16 tokens", |bencher| {
        let root = BlockHash::root(None);
        bencher.iter(|| root.chain(black_box(&tokens)));
    });
}

criterion_group!(benches, decode, admission, block_pool);
criterion_main!(benches);
