//! The largest step there can be, run once before the cache is sized: its activations are then part of what is in use.

use rustllm_models::{ForwardBatch, ForwardContext, Model};
use rustllm_ops::{AttentionMetadata, Backend, GroupMetadata, KvCacheSpec, LogitsEdits, Result, SamplingRow};

/// Runs a step of `num_tokens`, in sequences of `max_model_len` at most, the output projection of `num_logits` rows, and the sampling
/// of all of them, if the device has a sampler.
///
/// What they compute is of no interest. A small cache, which all sequences share, is given back at the end; the arena keeps what
/// activations took, and later steps use it again.
pub(crate) fn run_largest_step(
    backend: &dyn Backend,
    model: &dyn Model,
    spec: &KvCacheSpec,
    (num_tokens, num_logits, max_model_len): (usize, usize, usize),
) -> Result<()> {
    let longest = max_model_len.min(num_tokens).max(1);
    let lens: Vec<usize> = (0..num_tokens).step_by(longest).map(|first| longest.min(num_tokens - first)).collect();
    let blocks = longest.div_ceil(spec.block_size);
    let kv_cache = backend.alloc_kv_cache(&KvCacheSpec { num_blocks: blocks, ..spec.clone() })?;
    let positions: Vec<u32> = lens.iter().flat_map(|len| 0..*len as u32).collect();
    let mut query_start_loc = vec![0];
    query_start_loc.extend(lens.iter().scan(0, |start, len| {
        *start += *len as u32;
        Some(*start)
    }));
    let group = || -> Result<GroupMetadata> {
        Ok(GroupMetadata {
            slot_mapping: backend.indices(positions.clone())?,
            block_table: backend.indices(lens.iter().flat_map(|_| 0..blocks as u32).collect())?,
            max_blocks_per_seq: blocks,
        })
    };
    let batch = ForwardBatch {
        token_ids: backend.indices(vec![0; num_tokens])?,
        token_type_ids: model.is_bidirectional().then(|| backend.indices(vec![0; num_tokens])).transpose()?,
        attention: AttentionMetadata {
            positions: backend.indices(positions.clone())?,
            query_start_loc: backend.indices(query_start_loc)?,
            seq_lens: backend.indices(lens.iter().map(|len| *len as u32).collect())?,
            groups: spec.groups.iter().map(|_| group()).collect::<Result<_>>()?,
        },
    };
    let hidden = model.forward(&ForwardContext { backend, batch: &batch, kv_cache: &kv_cache })?;
    if num_logits > 0 {
        let rows = backend.indices((0..num_logits.min(num_tokens) as u32).collect())?;
        let wanted = backend.gather_rows(&hidden, &rows)?;
        let logits = model.predict(backend, &wanted, wanted.rows())?.logits;
        if let Some(sampler) = backend.sampler() {
            let edited = sampler.edit_logits(&logits, &vec![LogitsEdits::default(); logits.rows()])?;
            let rows = vec![SamplingRow::GREEDY; logits.rows()];
            sampler.sample(&edited, &backend.indices(SamplingRow::pack(&rows))?)?;
        }
    }
    // One number: all work is done once it is here.
    backend.read_rows(&hidden.row_range(0, 1)?.columns(0, 1)?, &mut |_, _| {})
}
