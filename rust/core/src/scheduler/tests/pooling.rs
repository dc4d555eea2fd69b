//! Requests that generate nothing.

use super::*;
use crate::pooling::{PoolingInput, PoolingParams, PoolingTask};

impl Request {
    fn pooled(mut self, skip_reading_prefix_cache: bool) -> Self {
        let params = PoolingParams::new(PoolingTask::Embed);
        self.pooling = Some(Arc::new(PoolingInput { params, token_type_ids: None, skip_reading_prefix_cache }));
        self
    }
}

#[test]
fn a_pooling_request_ends_with_its_prompt_and_without_a_token() {
    let mut scheduler = setup().budget(5).build().with([request("a", 0, 9).pooled(false)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 5)]));
    let output = scheduler.schedule();
    assert!(output.sequences[0].samples);
    let updates = scheduler.update(&output, &[None]);
    assert_eq!((updates[0].token_id, updates[0].finish), (None, Some(FinishReason::Stop(None))));
    assert!(updates[0].request_finished && !scheduler.has_unfinished());
    assert_eq!(scheduler.stats().num_free_blocks, 100);
}

#[test]
fn a_prompt_to_pool_may_be_as_long_as_the_model() {
    setup().model_len(8).build().with([request("a", 0, 8).pooled(false)]);
    setup().model_len(8).blocks(2).build().with([request("a", 0, 8).pooled(false)]);
}

#[test]
fn whole_prompts_wait_for_a_step_that_holds_them() {
    let mut setup = setup().budget(64);
    setup.0.enable_chunked_prefill = false;
    let prompts = [("a", 40), ("b", 30), ("c", 10)];
    let mut scheduler = setup.build().with(prompts.map(|(id, len)| request(id, 0, len).pooled(true)));
    // Nobody overtakes.
    assert_eq!(scheduler.step_chunks(), chunks(&[("a", 0, 40)]));
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 0, 30), ("c", 0, 10)]));
    assert!(!scheduler.has_unfinished());
}

#[test]
fn a_prompt_that_skips_the_prefix_cache_is_computed_whole() {
    let mut scheduler = setup().build().with([request("a", 0, 9).pooled(false)]);
    scheduler.step();
    let mut scheduler = scheduler.with([request("b", 0, 9).pooled(false), request("c", 0, 9).pooled(true)]);
    assert_eq!(scheduler.step_chunks(), chunks(&[("b", 8, 1), ("c", 0, 9)]));
}

#[test]
fn whole_prompts_need_a_budget_that_holds_any() {
    let mut config = setup().budget(63).0;
    config.enable_chunked_prefill = false;
    let error = Scheduler::new(config).expect_err("too small");
    assert!(error.to_string().starts_with("max_num_batched_tokens must be at least max_model_len"), "{error}");
}
