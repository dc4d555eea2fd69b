//! The whole engine on a GPU, or on the simulator of its driver: the same answers as on the CPU, whichever way a step is launched.

#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod support;

use std::collections::HashMap;
use std::path::PathBuf;

use rustllm::core::{FinishReason, SamplingParams};
use rustllm::engine::{Device, Engine, EngineConfig, EngineRequest, LoadListener};
use rustllm::ops::{DType, WeightFormat};
use rustllm_cuda_simulator::{self as simulator, use_cuda_device};
use support::{golden, request, run, run_on, run_stepping};

/// Architectures whose steps differ: plain, with windows of their own blocks, with experts, with a latent cache.
const CASES: [&str; 5] = ["llama", "qwen2", "gemma2", "qwen2_moe", "deepseek_v3"];

type Bits = HashMap<(String, u32), Vec<(u32, u32)>>;

fn config(case: &str) -> EngineConfig {
    let mut config = EngineConfig::new(golden(case));
    config.device = Device::Cuda(0);
    config.deterministic = true;
    config.dtype = Some(DType::F32);
    config.num_gpu_blocks_override = Some(64);
    // The largest step is run to see what memory it takes: here on a processor that plays the GPU.
    (config.max_num_seqs, config.max_num_batched_tokens) = (8, Some(48));
    config
}

/// Prompts of several lengths, some greedy, some drawn, with logprobs.
fn requests() -> Vec<EngineRequest> {
    let request = |(i, len): (usize, &usize)| {
        let params = SamplingParams {
            temperature: if i % 2 == 0 { 0.0 } else { 0.9 },
            seed: Some(i as u64),
            max_tokens: Some(6),
            ignore_eos: true,
            logprobs: Some(0),
            ..SamplingParams::default()
        };
        request(&format!("r{i}"), (0..*len).map(|j| ((i * 101 + j * 13) % 250) as u32 + 3).collect(), params)
    };
    [1, 7, 16, 17, 40].iter().enumerate().map(request).collect()
}

fn bits(config: &EngineConfig, requests: Vec<EngineRequest>) -> Bits {
    let sequences = run(config, requests).sequences;
    sequences.into_iter().map(|(key, generated)| (key, generated.bits())).collect()
}

#[test]
fn a_captured_step_is_the_step_to_the_bit() {
    use_cuda_device();
    for case in CASES {
        let eager = EngineConfig { enforce_eager: true, ..config(case) };
        assert_eq!(bits(&config(case), requests()), bits(&eager, requests()), "{case}");
    }
}

/// What the device draws, masks, penalizes and reports; one request leaves nothing to draw from.
fn sampled_requests() -> Vec<EngineRequest> {
    let drawn = SamplingParams { max_tokens: Some(8), ignore_eos: true, seed: Some(3), ..SamplingParams::default() };
    let all = [
        drawn.clone(),
        SamplingParams { temperature: 0.0, ..drawn.clone() },
        SamplingParams { top_k: 9, temperature: 0.8, n: 2, ..drawn.clone() },
        SamplingParams { top_p: 0.8, min_p: 0.01, ..drawn.clone() },
        SamplingParams { repetition_penalty: 1.2, frequency_penalty: 0.3, logprobs: Some(3), ..drawn.clone() },
        SamplingParams { min_tokens: 4, logit_bias: vec![(9, 4.0)], prompt_logprobs: Some(0), ..drawn.clone() },
        SamplingParams { allowed_token_ids: Some(vec![5]), bad_words_token_ids: vec![vec![5]], ..drawn },
    ];
    let prompt = |i: usize| (0..5 + 3 * i).map(|j| ((i * 31 + j * 17) % 250) as u32 + 3).collect();
    all.into_iter().enumerate().map(|(i, params)| request(&format!("r{i}"), prompt(i), params)).collect()
}

#[test]
fn a_captured_step_draws_what_the_step_draws() {
    use_cuda_device();
    for case in ["llama", "gemma2"] {
        let run = |config: &EngineConfig, requests| run(config, requests).sequences;
        let captured = run(&config(case), sampled_requests());
        let eager = EngineConfig { enforce_eager: true, ..config(case) };
        assert_eq!(captured, run(&eager, sampled_requests()), "{case}");
        // What only draws is captured, what fails is not there, and each draws what it drew among the others.
        let plain = run(&config(case), sampled_requests().drain(..4).collect());
        assert!(plain.iter().all(|(key, generated)| *generated == captured[key]), "{case}");
        assert_eq!(captured[&("r6".to_owned(), 0)].finish_reason, Some(FinishReason::Error));

        let on_cpu = run(&EngineConfig { device: Device::Cpu, ..config(case) }, sampled_requests());
        for (key, generated) in &captured {
            assert_eq!(generated.token_ids, on_cpu[key].token_ids, "{case}: {key:?}");
        }
    }
}

#[test]
fn a_request_with_nothing_to_draw_from_says_so() {
    use_cuda_device();
    let error = |config: &EngineConfig| -> Option<String> {
        let mut engine = Engine::load(config, None).unwrap();
        sampled_requests().drain(6..).for_each(|request| engine.add_request(request));
        engine.step().pop().unwrap().error
    };
    let on_cpu = error(&EngineConfig { device: Device::Cpu, ..config("llama") });
    assert!(
        on_cpu.as_ref().unwrap().starts_with("all ") && on_cpu.as_ref().unwrap().contains("are masked"),
        "{on_cpu:?}"
    );
    assert_eq!(error(&config("llama")), on_cpu);
}

#[test]
fn a_batch_equals_each_request_alone() {
    use_cuda_device();
    for case in CASES {
        for (dtype, quantization) in [(DType::BF16, None), (DType::BF16, Some(WeightFormat::Int8))] {
            let config = EngineConfig { dtype: Some(dtype), quantization, ..config(case) };
            let together = bits(&config, requests());
            let mut engine = Engine::load(&config, None).unwrap();
            for request in requests() {
                for (key, generated) in run_on(&mut engine, vec![request]).sequences {
                    assert_eq!(generated.bits(), together[&key], "{case} at {dtype}, {quantization:?}: {key:?}");
                }
            }
        }
    }
}

#[test]
fn tokens_are_those_of_the_cpu() {
    use_cuda_device();
    for case in CASES {
        let on_cpu = EngineConfig { device: Device::Cpu, ..config(case) };
        let tokens = |bits: Bits| -> HashMap<(String, u32), Vec<u32>> {
            bits.into_iter().map(|(key, bits)| (key, bits.into_iter().map(|(token, _)| token).collect())).collect()
        };
        assert_eq!(tokens(bits(&config(case), requests())), tokens(bits(&on_cpu, requests())), "{case}");
    }
}

/// Requests that want tokens only, greedy and drawn ones, and end at different times, or at `eos` if they come by it.
fn token_requests(eos: Option<u32>) -> Vec<EngineRequest> {
    let request = |(i, len): (usize, &usize)| {
        let params = SamplingParams {
            temperature: if i % 2 == 0 { 0.0 } else { 0.9 },
            seed: Some(7 + i as u64),
            top_k: if i == 1 { 20 } else { 0 },
            top_p: if i == 3 { 0.95 } else { 1.0 },
            max_tokens: Some(9 + 7 * i as u32),
            ignore_eos: eos.is_none(),
            ..SamplingParams::default()
        };
        request(&format!("r{i}"), (0..*len).map(|j| ((i * 101 + j * 13) % 150) as u32 + 3).collect(), params)
    };
    [1, 7, 16, 40].iter().enumerate().map(request).collect()
}

#[test]
fn the_overlapped_loop_gives_the_tokens_of_the_simple_one() {
    use_cuda_device();
    for case in CASES {
        let simple = run(&config(case), token_requests(None));
        let mut engine = Engine::load(&config(case), None).unwrap();
        let overlapped = run_stepping(&mut engine, token_requests(None), Engine::step_overlapped);
        assert_eq!(overlapped.sequences, simple.sequences, "{case}");
        assert_eq!(overlapped.stats.num_steps, simple.stats.num_steps, "{case}: no end came unforeseen");

        // The last one alone meets the end half-way through its tokens, when the step after is under way.
        let longest = &simple.sequences[&("r3".to_owned(), 0)].token_ids;
        let eos = longest[longest.len() / 2];
        let config = EngineConfig { eos_token_ids: Some(vec![eos]), ..config(case) };
        let last = || token_requests(Some(eos)).split_off(3);
        let simple = run(&config, last());
        let mut engine = Engine::load(&config, None).unwrap();
        let overlapped = run_stepping(&mut engine, last(), Engine::step_overlapped);
        assert_eq!(overlapped.sequences, simple.sequences, "{case}");
        assert_eq!(overlapped.stats.num_steps, simple.stats.num_steps + 1, "{case}: begun before the end was known");
        assert_eq!(overlapped.stats.num_free_blocks, overlapped.stats.num_blocks, "{case}");
    }
}

#[test]
fn requests_that_come_and_go_between_overlapped_steps_hurt_nobody() {
    use_cuda_device();
    let expected = run(&config("llama"), token_requests(None)).sequences;
    let mut engine = Engine::load(&config("llama"), None).unwrap();
    let mut arrivals = token_requests(None).into_iter();
    let mut tokens: HashMap<String, Vec<u32>> = HashMap::new();
    for step in 0.. {
        // One more every fifth step; the second leaves while a step with it is under way.
        if step % 5 == 0 {
            arrivals.next().into_iter().for_each(|request| engine.add_request(request));
        }
        if step == 9 {
            engine.abort("r1");
        }
        for output in engine.step_overlapped() {
            tokens.entry(output.request_id.to_string()).or_default().extend(output.token_id);
        }
        engine.check_integrity();
        if !engine.has_unfinished() && arrivals.len() == 0 {
            break;
        }
    }
    for ((id, _), generated) in expected {
        match id.as_str() {
            "r1" => {
                let whole = &generated.token_ids;
                assert!(whole.starts_with(&tokens[&id]) && tokens[&id].len() < whole.len());
            }
            _ => assert_eq!(tokens[&id], generated.token_ids, "{id}"),
        }
    }
    assert!(engine.reset_prefix_cache(), "nothing is left under way");
}

/// The golden Llama in a folder of its own, with an embedding of `token_id` that is no number.
fn llama_without_a_number_for(token_id: u32) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("rustllm-cuda-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["config.json", "model.safetensors"] {
        std::fs::copy(golden("llama").join(name), folder.join(name)).unwrap();
    }
    let mut file = std::fs::read(folder.join("model.safetensors")).unwrap();
    let header_len = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&file[8..8 + header_len]).unwrap();
    let embedding = &header["model.embed_tokens.weight"];
    let (at, shape): ([usize; 2], [usize; 2]) =
        (number_pair(&embedding["data_offsets"]), number_pair(&embedding["shape"]));
    let row_bytes = (at[1] - at[0]) / shape[0];
    let start = 8 + header_len + at[0] + token_id as usize * row_bytes;
    file[start..start + row_bytes].fill(0xff);
    std::fs::write(folder.join("model.safetensors"), file).unwrap();
    folder
}

fn number_pair(value: &serde_json::Value) -> [usize; 2] {
    serde_json::from_value(value.clone()).unwrap()
}

#[test]
fn a_row_without_numbers_ends_with_the_cause_when_the_next_step_is_under_way() {
    use_cuda_device();
    let expected = run(&config("llama"), token_requests(None)).sequences;
    // The longest sequence meets the token that no other has.
    let longest = &expected[&("r3".to_owned(), 0)].token_ids;
    let others: Vec<u32> =
        expected.iter().filter(|(key, _)| key.0 != "r3").flat_map(|(_, other)| other.token_ids.clone()).collect();
    let prompts: Vec<u32> = token_requests(None).iter().flat_map(|request| request.prompt_token_ids.to_vec()).collect();
    let is_its_own = |at: &usize| {
        let token = longest[*at];
        !others.contains(&token) && !prompts.contains(&token) && !longest[..*at].contains(&token)
    };
    let at = (3..longest.len() - 1).find(is_its_own).unwrap();
    let folder = llama_without_a_number_for(longest[at]);
    let broken = EngineConfig { model: folder.clone(), ..config("llama") };
    let mut engine = Engine::load(&broken, None).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    let mut errors = Vec::new();
    let mut sequences: HashMap<String, Vec<u32>> = HashMap::new();
    token_requests(None).into_iter().for_each(|request| engine.add_request(request));
    while engine.has_unfinished() {
        for output in engine.step_overlapped() {
            sequences.entry(output.request_id.to_string()).or_default().extend(output.token_id);
            if let Some(error) = output.error {
                errors.push((output.request_id.to_string(), error));
            }
        }
    }
    let cause = "the logit of token 0 is NaN; logits must be finite or -inf".to_owned();
    assert_eq!(errors, [("r3".to_owned(), cause)]);
    for ((id, _), generated) in &expected {
        let end = if id == "r3" { at + 1 } else { generated.token_ids.len() };
        assert_eq!(sequences[id], generated.token_ids[..end], "{id}");
    }
}

#[test]
fn steps_that_cannot_be_captured_are_computed_as_any_other() {
    if simulator::on_gpu() {
        return;
    }
    use_cuda_device();
    let expected = run(&config("llama"), token_requests(None)).sequences;
    // The first capture is the largest step's, while the engine is loaded. Of steps some are captured, and some of those that
    // come ahead of their tokens are not.
    for captures in [1, 2, 3, 4] {
        let mut engine = Engine::load(&config("llama"), None).unwrap();
        simulator::limit_captures(captures - 1);
        let overlapped = run_stepping(&mut engine, token_requests(None), Engine::step_overlapped);
        simulator::limit_captures(u32::MAX);
        assert_eq!(overlapped.sequences, expected, "{captures} captures");
        assert_eq!(overlapped.stats.num_free_blocks, overlapped.stats.num_blocks);
    }
}

#[test]
fn a_device_that_fails_ends_what_it_computes_and_the_engine_says_so() {
    if simulator::on_gpu() {
        return;
    }
    // On a thread of its own, whose device stays broken.
    let broken = std::thread::spawn(|| {
        use_cuda_device();
        let mut engine = Engine::load(&config("llama"), None).unwrap();
        token_requests(None).into_iter().for_each(|request| engine.add_request(request));
        engine.step_overlapped();
        assert_eq!(engine.lost(), None);
        simulator::break_device();
        let outputs: Vec<_> = std::iter::repeat_with(|| engine.step_overlapped()).take(3).flatten().collect();
        let cause = engine.lost().expect("the device is lost").to_owned();
        (outputs, cause)
    });
    let (outputs, cause) = broken.join().unwrap();
    assert!(cause.starts_with("the cuda device has failed") && cause.contains("CUDA_ERROR_ILLEGAL_ADDRESS"), "{cause}");
    let mut ended: Vec<_> =
        outputs.iter().filter(|output| output.error.is_some()).map(|output| &*output.request_id).collect();
    ended.sort_unstable();
    assert_eq!(ended, ["r0", "r1", "r2", "r3"]);
}

/// Keeps what is said while a model is loaded.
#[derive(Default)]
struct Notes(Vec<String>);

impl LoadListener for Notes {
    fn progress(&mut self, _done: u64, _total: u64) {
        assert!(!self.0.is_empty(), "the plan comes before the weights");
    }

    fn note(&mut self, line: &str) {
        self.0.push(line.to_owned());
    }
}

#[test]
fn memory_is_planned_before_weights_are_loaded() {
    use_cuda_device();
    let mut notes = Notes::default();
    let planned = EngineConfig { num_gpu_blocks_override: None, max_num_seqs: 2, ..config("llama") };
    let engine = Engine::load(&planned, Some(&mut notes)).unwrap();
    let [plan, cache] = notes.0.as_slice() else { panic!("{:?}", notes.0) };
    assert!(plan.contains("GiB free; weights at least") && plan.contains("gpu_memory_utilization=0.92"), "{plan}");
    assert_eq!(
        *cache,
        format!(
            "key/value cache: {} blocks of 16 tokens, {:.2} GiB",
            engine.info().kv_cache.num_blocks,
            engine.info().kv_cache_bytes as f64 / (1u64 << 30) as f64,
        )
    );
    let tiny = EngineConfig { gpu_memory_utilization: 1e-9, ..planned };
    let refused = Engine::load(&tiny, None).unwrap_err().to_string();
    assert!(
        refused.contains("the weights take at least") && refused.contains("gpu_memory_utilization=0.000000001"),
        "{refused}"
    );
}

#[test]
fn a_device_that_is_not_there_is_refused_by_number() {
    use_cuda_device();
    let refused = Engine::load(&EngineConfig { device: Device::Cuda(7), ..config("llama") }, None).unwrap_err();
    let count = if simulator::on_gpu() { return } else { 1 };
    assert_eq!(refused.to_string(), format!("there is no CUDA device 7: the driver sees {count}"));
}
