//! Pooled models against transformers: every golden checkpoint, alone and in a batch, in float32 and with smaller weights.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use std::collections::BTreeMap;
use std::path::Path;

use rustllm::core::{FinishReason, PoolingParams, PoolingTask};
use rustllm::engine::{Device, Engine, EngineConfig, Pooled, PoolingRequest};
use rustllm::ops::{DType, WeightFormat};
use rustllm_cuda_simulator::use_cuda_device;
use serde_json::Value;
use support::{golden, numbers};

/// Of a value, relative to the length of the vector it is in.
const TOLERANCE: f32 = 1e-5;

/// What weights of bfloat16 or eight bits may move vectors by, relative to their length: half more than measured (0.028 and
/// 0.089). The checkpoints are random, so that nothing is as sure as in a trained model.
const BFLOAT16_MOVES: f32 = 0.042;
const INT8_MOVES: f32 = 0.13;

/// A prompt of a golden file and what transformers made of it.
struct Prompt {
    ids: Vec<u32>,
    types: Option<Vec<u32>>,
    /// By task, the rows.
    expected: Vec<(PoolingParams, Vec<Vec<f32>>)>,
}

fn cases() -> Vec<String> {
    let folders = std::fs::read_dir(golden("")).unwrap().map(|entry| entry.unwrap());
    let pooled = folders.filter(|folder| folder.path().join("pooling_reference.json").exists());
    let mut cases: Vec<String> = pooled.map(|folder| folder.file_name().into_string().unwrap()).collect();
    cases.sort();
    cases
}

fn rows(value: &Value) -> Vec<Vec<f32>> {
    match value[0].is_array() {
        true => numbers(value),
        false => vec![numbers(value)],
    }
}

/// The parameters that ask for what the golden file has: raw scores, hidden states, finished embeddings.
fn params(task: PoolingTask, mask_token_id: &Value) -> PoolingParams {
    let mask_token_id = (task == PoolingTask::FillMask).then(|| mask_token_id.as_u64().unwrap() as u32);
    let raw = (task != PoolingTask::Embed).then_some(false);
    PoolingParams { use_activation: raw, mask_token_id, ..PoolingParams::new(task) }
}

fn scored(folder: &Path) -> PoolingTask {
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config: Value = serde_json::from_str(&config).unwrap();
    match config["architectures"][0].as_str().unwrap() {
        name if name.ends_with("ForSequenceClassification") => PoolingTask::Classify,
        name if name.ends_with("ForMaskedLM") => PoolingTask::FillMask,
        _ => PoolingTask::TokenClassify,
    }
}

fn prompts(case: &str) -> Vec<Prompt> {
    let folder = golden(case);
    let text = std::fs::read_to_string(folder.join("pooling_reference.json")).unwrap();
    let reference: Value = serde_json::from_str(&text).unwrap();
    let tasks = [("embedding", PoolingTask::Embed), ("hidden", PoolingTask::TokenEmbed), ("scores", scored(&folder))];
    let read = |prompt: &Value| Prompt {
        ids: numbers(&prompt["prompt_token_ids"]),
        types: Some(&prompt["token_type_ids"]).filter(|types| !types.is_null()).map(numbers),
        expected: tasks
            .iter()
            .filter(|(name, _)| prompt.get(name).is_some())
            .map(|(name, task)| (params(*task, &reference["mask_token_id"]), rows(&prompt[*name])))
            .collect(),
    };
    reference["prompts"].as_array().unwrap().iter().map(read).collect()
}

fn config(case: &str) -> EngineConfig {
    let mut config = EngineConfig::new(golden(case));
    config.dtype = Some(DType::F32);
    config.num_gpu_blocks_override = Some(256);
    config.num_threads = Some(2);
    config.device = Device::Cpu;
    config
}

fn requests(prompts: &[Prompt]) -> Vec<PoolingRequest> {
    let each = prompts.iter().enumerate().flat_map(|(i, prompt)| {
        prompt.expected.iter().map(move |(params, _)| PoolingRequest {
            request_id: format!("{i} {}", params.task),
            prompt_token_ids: prompt.ids.clone().into(),
            token_type_ids: prompt.types.clone().map(Into::into),
            params: params.clone(),
            priority: 0,
            cache_salt: None,
        })
    });
    each.collect()
}

fn run(engine: &mut Engine, requests: Vec<PoolingRequest>) -> BTreeMap<String, Pooled> {
    for request in requests {
        engine.limits().check_pooling(&request).unwrap();
        engine.add_pooling_request(request);
    }
    let mut pooled = BTreeMap::new();
    while engine.has_unfinished() {
        for output in engine.step() {
            assert_eq!((output.error, output.finish_reason), (None, Some(FinishReason::Stop(None))));
            pooled.insert(output.request_id.to_string(), output.pooled.unwrap());
        }
        engine.check_integrity();
    }
    pooled
}

/// The largest difference from transformers, relative to the length of the vector.
fn distance(prompts: &[Prompt], pooled: &BTreeMap<String, Pooled>) -> f32 {
    let mut largest = 0.0f32;
    for (i, prompt) in prompts.iter().enumerate() {
        for (params, expected) in &prompt.expected {
            let found = &pooled[&format!("{i} {}", params.task)];
            assert_eq!(found.values.len(), found.rows.unwrap_or(1) * found.width);
            let rows: Vec<&[f32]> = found.values.chunks(found.width).collect();
            // Of long prompts the file has the last hidden states only.
            for (found, expected) in rows[rows.len() - expected.len()..].iter().zip(expected) {
                assert_eq!(found.len(), expected.len());
                let length = expected.iter().map(|value| value * value).sum::<f32>().sqrt();
                let differences = found.iter().zip(expected).map(|(a, b)| (a - b).abs());
                largest = largest.max(differences.fold(0.0, f32::max) / length);
            }
        }
    }
    largest
}

#[test]
fn every_case_on_the_cpu_and_the_reference() {
    let cases = cases();
    assert!(cases.len() >= 25, "golden cases are missing: {cases:?}");
    for case in cases {
        for device in [Device::Cpu, Device::Reference] {
            let mut config = config(&case);
            config.device = device;
            let prompts = prompts(&case);
            let error = distance(&prompts, &run(&mut Engine::load(&config, None).unwrap(), requests(&prompts)));
            println!("{case} on {device:?}: {error:.1e}");
            assert!(error <= TOLERANCE, "{case} on {device:?}: {error:.1e}");
        }
    }
}

fn bits(pooled: &Pooled) -> Vec<u32> {
    pooled.values.iter().map(|value| value.to_bits()).collect()
}

/// That an engine computes for each request alone, to the bit, what there was of all of them together.
fn assert_same_alone(engine: &mut Engine, prompts: &[Prompt], together: &BTreeMap<String, Pooled>, what: &str) {
    for request in requests(prompts) {
        let name = request.request_id.clone();
        let alone = run(engine, vec![request]);
        assert_eq!(bits(&alone[&name]), bits(&together[&name]), "{what}, {name}");
    }
}

fn cuda_config(case: &str) -> EngineConfig {
    let mut config = config(case);
    (config.device, config.deterministic) = (Device::Cuda(0), true);
    config
}

/// Short prompts of every case, together and alone.
#[test]
fn every_case_on_cuda() {
    use_cuda_device();
    for case in cases() {
        let mut prompts = prompts(&case);
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).min().unwrap_or(0).max(24);
        prompts.retain(|prompt| prompt.ids.len() <= longest);
        let mut config = cuda_config(&case);
        // The largest step is run to see what memory it takes: here on a processor that plays the GPU.
        (config.max_num_seqs, config.max_num_batched_tokens) = (4, Some(longest));
        config.max_model_len = Some(longest);
        let mut engine = Engine::load(&config, None).unwrap();
        let together = run(&mut engine, requests(&prompts));
        let error = distance(&prompts, &together);
        println!("{case}: {error:.1e}");
        assert!(error <= TOLERANCE, "{case}: {error:.1e}");
        assert_same_alone(&mut engine, &prompts, &together, &case);
    }
}

/// Prompts of more rows than a tile of attention and of products has.
#[test]
fn long_prompts_on_cuda_are_the_same_in_a_batch() {
    use_cuda_device();
    for (case, dtype) in [("deberta_v3", DType::F32), ("llama_embedding", DType::BF16), ("mpnet", DType::BF16)] {
        let mut config = cuda_config(case);
        let prompts = prompts(case);
        let longest = prompts.iter().map(|prompt| prompt.ids.len()).max();
        (config.dtype, config.max_num_seqs) = (Some(dtype), 8);
        (config.max_model_len, config.max_num_batched_tokens) = (longest, longest.map(|longest| longest + 20));
        let mut engine = Engine::load(&config, None).unwrap();
        let together = run(&mut engine, requests(&prompts));
        assert_same_alone(&mut engine, &prompts, &together, &format!("{case} at {dtype}"));
    }
}

#[test]
fn a_batch_equals_each_alone_on_any_number_of_threads() {
    for case in cases() {
        for dtype in [DType::F32, DType::BF16] {
            let mut config = config(&case);
            config.dtype = Some(dtype);
            let prompts = prompts(&case);
            let together = run(&mut Engine::load(&config, None).unwrap(), requests(&prompts));
            config.num_threads = Some(1);
            let mut engine = Engine::load(&config, None).unwrap();
            assert_same_alone(&mut engine, &prompts, &together, &format!("{case} at {dtype}"));
        }
    }
}

#[test]
fn smaller_weights_are_near() {
    let formats = [(DType::BF16, None, BFLOAT16_MOVES), (DType::F32, Some(WeightFormat::Int8), INT8_MOVES)];
    for case in cases() {
        for (dtype, quantization, bound) in formats {
            let mut config = config(&case);
            (config.dtype, config.quantization) = (Some(dtype), quantization);
            let prompts = prompts(&case);
            let error = distance(&prompts, &run(&mut Engine::load(&config, None).unwrap(), requests(&prompts)));
            println!("{case} at {dtype}, {quantization:?}: {error:.1e}");
            assert!(error > 1e-5 || dtype == DType::BF16, "{case}, {quantization:?}: nothing was quantized");
            assert!(error < bound, "{case} at {dtype}, {quantization:?}: {error:.1e}");
        }
    }
}
