//! Runs a folder of `tests/goldens` on a backend and compares it with what transformers computed.
//!
//! The backend is a parameter: every backend's crate can include this file and hold its kernels to the same numbers.

use std::path::{Path, PathBuf};

use rustllm_models::{ForwardBatch, ForwardContext, LoadOptions, LoadedModel, load};
use rustllm_ops::{AttentionMetadata, Backend, DType, GroupMetadata, KvCache, KvCacheDType, Tensor};
use serde_json::{Map, Value};

const BLOCK_SIZE: usize = 16;
const TOLERANCE: f32 = 1e-4;

/// All folders with a `reference.json`, sorted.
pub fn cases() -> Vec<PathBuf> {
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens");
    let folders = std::fs::read_dir(goldens).unwrap().map(|entry| entry.unwrap().path());
    let mut cases: Vec<PathBuf> = folders.filter(|folder| folder.join("reference.json").exists()).collect();
    cases.sort();
    cases
}

/// One sequence of a test: its tokens, how many of them were computed, its blocks in each group of layers.
struct TestSequence {
    tokens: Vec<u32>,
    num_computed: usize,
    blocks: Vec<Vec<u32>>,
}

/// A model, its cache and the sequences in it.
struct Runner<'a> {
    backend: &'a dyn Backend,
    loaded: LoadedModel,
    kv_cache: KvCache,
    sequences: Vec<TestSequence>,
}

impl<'a> Runner<'a> {
    /// Room for `extra` more tokens than the prompts have. Blocks are dealt out in turn, last first, so that no
    /// sequence's blocks are adjacent or in order.
    fn new(dir: &Path, backend: &'a dyn Backend, prompts: &[Vec<u32>], extra: usize) -> Self {
        let max_model_len = reference_file(dir).get("max_model_len").map(|len| len.as_u64().unwrap() as usize);
        let options = LoadOptions { dtype: Some(DType::F32), max_model_len, ..LoadOptions::default() };
        let loaded = load(dir, backend, options).unwrap_or_else(|error| panic!("{error}"));
        let needs: Vec<usize> = prompts.iter().map(|prompt| (prompt.len() + extra).div_ceil(BLOCK_SIZE)).collect();
        let num_groups = loaded.model.kv_cache_spec(BLOCK_SIZE, 0, KvCacheDType::F32).groups.len();
        let num_blocks: usize = num_groups * needs.iter().sum::<usize>();
        let mut free = 0..num_blocks as u32;
        let mut sequences: Vec<TestSequence> = prompts
            .iter()
            .map(|tokens| TestSequence {
                tokens: tokens.clone(),
                num_computed: 0,
                blocks: vec![Vec::new(); num_groups],
            })
            .collect();
        while !free.is_empty() {
            for (sequence, need) in sequences.iter_mut().zip(&needs) {
                for blocks in sequence.blocks.iter_mut().filter(|blocks| blocks.len() < *need) {
                    blocks.extend(free.next_back());
                }
            }
        }
        let spec = loaded.model.kv_cache_spec(BLOCK_SIZE, num_blocks, KvCacheDType::F32);
        let kv_cache = backend.alloc_kv_cache(&spec).unwrap();
        Self { backend, loaded, kv_cache, sequences }
    }

    /// Computes at most `chunk` waiting tokens of every sequence in one ragged batch; log probabilities of each row.
    fn step(&mut self, chunk: usize) -> Vec<Vec<Vec<f32>>> {
        let counts: Vec<usize> =
            self.sequences.iter().map(|seq| (seq.tokens.len() - seq.num_computed).min(chunk)).collect();
        let batch = self.batch(&counts);
        let ctx = ForwardContext { backend: self.backend, batch: &batch, kv_cache: &self.kv_cache };
        let hidden = self.loaded.model.forward(&ctx).unwrap();
        let logits = self.loaded.model.predict(self.backend, &hidden, hidden.rows()).unwrap().logits;
        let mut rows = self.logprobs(&logits).into_iter();
        let split = counts.iter().map(|count| rows.by_ref().take(*count).collect()).collect();
        for (sequence, count) in self.sequences.iter_mut().zip(&counts) {
            sequence.num_computed += count;
        }
        split
    }

    fn batch(&self, counts: &[usize]) -> ForwardBatch {
        let (mut token_ids, mut positions) = (Vec::new(), Vec::new());
        let (mut query_start_loc, mut seq_lens) = (vec![0], Vec::new());
        for (sequence, count) in self.sequences.iter().zip(counts) {
            let end = sequence.num_computed + count;
            for position in sequence.num_computed..end {
                token_ids.push(sequence.tokens[position]);
                positions.push(position as u32);
            }
            query_start_loc.push(token_ids.len() as u32);
            seq_lens.push(end as u32);
        }
        let indices = |values| self.backend.indices(values).unwrap();
        ForwardBatch {
            token_ids: indices(token_ids),
            token_type_ids: None,
            attention: AttentionMetadata {
                positions: indices(positions),
                query_start_loc: indices(query_start_loc),
                seq_lens: indices(seq_lens),
                groups: (0..self.kv_cache.spec().groups.len()).map(|group| self.group(group, counts)).collect(),
            },
        }
    }

    /// The block tables of a group of layers, without the blocks that its window has passed.
    fn group(&self, group: usize, counts: &[usize]) -> GroupMetadata {
        let max_blocks_per_seq = self.sequences.iter().map(|seq| seq.blocks[group].len()).max().unwrap();
        let window = self.kv_cache.spec().groups[group].sliding_window.unwrap_or(usize::MAX);
        let (mut slot_mapping, mut block_table) = (Vec::new(), Vec::new());
        for (sequence, count) in self.sequences.iter().zip(counts) {
            let (start, blocks) = (sequence.num_computed, &sequence.blocks[group]);
            slot_mapping.extend(
                (start..start + count).map(|position| {
                    (blocks[position / BLOCK_SIZE] as usize * BLOCK_SIZE + position % BLOCK_SIZE) as u32
                }),
            );
            let first = block_table.len();
            block_table.extend(blocks);
            block_table[first..][..(start + 1).saturating_sub(window) / BLOCK_SIZE].fill(u32::MAX);
            block_table.resize(first + max_blocks_per_seq, u32::MAX);
        }
        let indices = |values| self.backend.indices(values).unwrap();
        GroupMetadata { slot_mapping: indices(slot_mapping), block_table: indices(block_table), max_blocks_per_seq }
    }

    fn logprobs(&self, logits: &Tensor) -> Vec<Vec<f32>> {
        assert_eq!(logits.cols(), self.loaded.model.vocab_size());
        let mut rows = Vec::new();
        let mut visit = |_, row: &[f32]| {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|logit| f64::from(logit - max).exp()).sum();
            rows.push(row.iter().map(|logit| (f64::from(logit - max) - sum.ln()) as f32).collect());
        };
        self.backend.read_rows(logits, &mut visit).unwrap();
        rows
    }
}

struct Reference {
    prompt: Vec<u32>,
    prompt_logprobs: Vec<f32>,
    top5: Vec<(u32, f32)>,
    greedy: Vec<u32>,
    greedy_logprobs: Vec<f32>,
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn reference_file(dir: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(dir.join("reference.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn references(dir: &Path) -> Vec<Reference> {
    let file = reference_file(dir);
    let read = |prompt: &Value| Reference {
        prompt: ids(&prompt["prompt_token_ids"]),
        prompt_logprobs: floats(&prompt["prompt_logprobs"]),
        top5: ids(&prompt["top5_token_ids"]).into_iter().zip(floats(&prompt["top5_logprobs"])).collect(),
        greedy: ids(&prompt["greedy_token_ids"]),
        greedy_logprobs: floats(&prompt["greedy_logprobs"]),
    };
    file["prompts"].as_array().unwrap().iter().map(read).collect()
}

/// The largest error seen, each checked as it comes.
struct Errors<'a> {
    case: &'a str,
    largest: f32,
}

impl Errors<'_> {
    fn check(&mut self, found: f32, expected: f32, what: &str) {
        let error = (found - expected).abs();
        assert!(error <= TOLERANCE, "{}: {what}: {found}, expected {expected}", self.case);
        self.largest = self.largest.max(error);
    }
}

/// Checks every stored log probability and every greedy token of the case at `dir`: the prompts of all lengths in one
/// ragged batch, prefilled in chunks of at most `chunk` tokens, then 64 tokens decoded one at a time. Prompts longer
/// than `max_prompt` are left out. Returns the largest error of a log probability.
pub fn check_case(dir: &Path, backend: &dyn Backend, chunk: usize, max_prompt: usize) -> f32 {
    let case = dir.file_name().unwrap().to_str().unwrap();
    let mut references = references(dir);
    references.retain(|reference| reference.prompt.len() <= max_prompt);
    assert!(!references.is_empty());
    let prompts: Vec<Vec<u32>> = references.iter().map(|reference| reference.prompt.clone()).collect();
    let steps = references[0].greedy.len();
    let mut runner = Runner::new(dir, backend, &prompts, steps);
    let mut errors = Errors { case, largest: 0.0 };

    let mut rows = vec![Vec::new(); references.len()];
    while runner.sequences.iter().any(|sequence| sequence.num_computed < sequence.tokens.len()) {
        for (rows, new) in rows.iter_mut().zip(runner.step(chunk)) {
            rows.extend(new);
        }
    }
    for (reference, rows) in references.iter().zip(&rows) {
        let length = reference.prompt.len();
        assert_eq!(rows.len(), length);
        for (position, expected) in reference.prompt_logprobs.iter().enumerate() {
            let found = rows[position][reference.prompt[position + 1] as usize];
            errors.check(found, *expected, &format!("prompt of {length}, logprob {position}"));
        }
        for (token, expected) in &reference.top5 {
            errors.check(rows[length - 1][*token as usize], *expected, &format!("prompt of {length}, token {token}"));
        }
    }

    let mut last: Vec<Vec<f32>> = rows.into_iter().filter_map(|mut rows| rows.pop()).collect();
    for step in 0..steps {
        for ((sequence, reference), row) in runner.sequences.iter_mut().zip(&references).zip(&last) {
            let what = format!("prompt of {}, greedy token {step}", reference.prompt.len());
            let best = (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b])).unwrap();
            assert_eq!(best as u32, reference.greedy[step], "{case}: {what}");
            errors.check(row[best], reference.greedy_logprobs[step], &what);
            sequence.tokens.push(best as u32);
        }
        if step + 1 < steps {
            last = runner.step(1).into_iter().flatten().collect();
        }
    }
    errors.largest
}
