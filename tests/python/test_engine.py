"""`rustllm.Engine` by itself: token ids in, token ids out."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rustllm import Engine, EngineDeadError, ModelLoadError, SamplingParams, ValidationError
from rustllm._core import EngineOutput

GOLDENS = Path(__file__).parent.parent / "goldens"
LLAMA = GOLDENS / "llama"
GREEDY = SamplingParams(temperature=0.0, max_tokens=8, ignore_eos=True)


def open_engine(model: Path = LLAMA, **options: Any) -> Engine:
    return Engine(model, **{"dtype": "float32", "num_gpu_blocks_override": 128, **options})


@pytest.fixture
def engine() -> Iterator[Engine]:
    engine = open_engine()
    yield engine
    engine.shutdown()


def drain(engine: Engine) -> dict[tuple[str, int], list[EngineOutput]]:
    outputs: dict[tuple[str, int], list[EngineOutput]] = {}
    while engine.has_unfinished():
        for output in engine.step():
            outputs.setdefault((output.request_id, output.index), []).append(output)
    return outputs


def tokens(outputs: list[EngineOutput]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def reference_prompt(index: int) -> dict[str, Any]:
    reference = json.loads((LLAMA / "reference.json").read_text())
    prompt: dict[str, Any] = reference["prompts"][index]
    return prompt


def test_generates_what_transformers_does(engine: Engine) -> None:
    prompt = reference_prompt(3)
    engine.add_request("a", prompt["prompt_token_ids"], GREEDY)
    (outputs,) = drain(engine).values()
    assert tokens(outputs) == prompt["greedy_token_ids"][:8]
    assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish_reason == "length"
    assert outputs[-1].stop_reason is None


def test_the_reference_device_agrees(engine: Engine) -> None:
    slow = open_engine(device="reference")
    for each in (engine, slow):
        each.add_request("a", [5, 6, 7], GREEDY)
    ours, theirs = (tokens(drain(each)["a", 0]) for each in (engine, slow))
    assert ours == theirs
    assert slow.model_info.device == "reference"


def test_says_what_it_loaded(engine: Engine) -> None:
    info = engine.model_info
    assert (info.architecture, info.dtype, info.device) == ("LlamaForCausalLM", "float32", "cpu")
    assert (info.block_size, info.num_blocks) == (16, 128)
    config = json.loads((LLAMA / "config.json").read_text())
    assert info.vocab_size == config["vocab_size"]
    assert info.max_model_len == config["max_position_embeddings"]
    assert info.eos_token_ids == [2]


@pytest.mark.parametrize(
    ("given", "kept", "bytes_per_element"),
    [("auto", "float32", 4), ("bfloat16", "bfloat16", 2), ("int8_per_token_head", "int8", 1)],
)
def test_keeps_keys_and_values_as_asked(given: str, kept: str, bytes_per_element: int) -> None:
    engine = open_engine(kv_cache_dtype=given)
    info = engine.model_info
    assert (info.dtype, info.kv_cache_dtype) == ("float32", kept)
    config = json.loads((LLAMA / "config.json").read_text())
    head_dim = config.get("head_dim", config["hidden_size"] // config["num_attention_heads"])
    # A key, a value filled up to vectors of 16, and with int8 a scale for each.
    elements = head_dim + -(-head_dim // 16) * 16
    per_token = elements * bytes_per_element + (8 if kept == "int8" else 0)
    heads = config["num_hidden_layers"] * config["num_key_value_heads"]
    assert info.kv_cache_bytes == info.num_blocks * info.block_size * heads * per_token
    engine.add_request("a", [5, 6, 7], GREEDY)
    assert len(tokens(drain(engine)["a", 0])) == GREEDY.max_tokens


def test_sequences_of_a_request_share_its_prompt(engine: Engine) -> None:
    params = SamplingParams(n=3, max_tokens=4, seed=3, ignore_eos=True, logprobs=2)
    engine.add_request("a", list(range(3, 43)), params)
    outputs = drain(engine)
    assert sorted(outputs) == [("a", 0), ("a", 1), ("a", 2)]
    # Of 40 tokens two blocks of 16 are full: the second and third sequence find them.
    assert [outputs["a", index][-1].num_cached_tokens for index in range(3)] == [0, 32, 32]
    assert engine.stats().prefix_cache_hits == 64
    for output in (output for each in outputs.values() for output in each):
        assert output.logprobs is not None
        for token, entries in zip(output.token_ids, output.logprobs, strict=True):
            assert entries[0][0] == token
            assert [entry[2] for entry in entries[1:]] == [1, 2]


def test_requests_arriving_together_are_taken_or_refused_together(engine: Engine) -> None:
    good = ("good", [1, 2], GREEDY, 0, None)
    with pytest.raises(ValidationError, match=r"Token id 100000 is out of vocabulary"):
        engine.add_requests([good, ("bad", [1, 100000], GREEDY, 0, None)])
    assert not engine.has_unfinished()
    engine.add_requests([good, ("fine", [1, 3], GREEDY, 0, None)])
    assert engine.num_unfinished == 2
    assert {key[0] for key in drain(engine)} == {"good", "fine"}


def test_salted_prefixes_are_not_shared(engine: Engine) -> None:
    prompt = list(range(3, 43))
    for name, salt in (("a", "x"), ("b", "y"), ("c", "x")):
        engine.add_request(name, prompt, GREEDY, cache_salt=salt)
        drain(engine)
    assert engine.stats().prefix_cache_hits == 32


ENDLESS = SamplingParams(max_tokens=60_000, ignore_eos=True, seed=1)
"""So many tokens that an abort comes before the last of them, however busy the machine is."""


@pytest.fixture
def long_engine() -> Iterator[Engine]:
    """An engine whose sequences may be as long as ENDLESS asks."""
    overrides = json.dumps({"max_position_embeddings": 65_536})
    engine = open_engine(hf_overrides=overrides, num_gpu_blocks_override=2 * 65_536 // 16)
    yield engine
    engine.shutdown()


def test_an_aborted_request_says_so(long_engine: Engine) -> None:
    long_engine.add_request("long", [1], ENDLESS)
    long_engine.add_request("other", [2], GREEDY)
    long_engine.abort(["long", "unknown"])
    outputs = drain(long_engine)
    assert outputs["long", 0][-1].finish_reason == "abort"
    assert outputs["other", 0][-1].finish_reason == "length"
    assert long_engine.stats().num_free_blocks == long_engine.stats().num_blocks


def test_one_of_a_requests_sequences_can_be_aborted(long_engine: Engine) -> None:
    long_engine.add_request("a", [1], dataclasses.replace(ENDLESS, n=2))
    long_engine.abort_sequences([("a", 1), ("a", 7), ("unknown", 0)])
    # What comes after the last output of the second sequence is of the first one.
    finished: dict[int, str] = {}
    while 1 not in finished:
        outputs = long_engine.step()
        finished.update((each.index, each.finish_reason) for each in outputs if each.finish_reason)
    assert finished == {1: "abort"}
    assert {output.index for output in long_engine.step()} == {0}
    long_engine.abort(["a"])
    assert [each[-1].finish_reason for each in drain(long_engine).values()] == ["abort"]
    assert long_engine.stats().num_free_blocks == long_engine.stats().num_blocks


def test_step_returns_when_there_is_nothing_to_wait_for(engine: Engine) -> None:
    assert engine.step() == []
    with pytest.raises(ValidationError, match="timeout must be a non-negative number"):
        engine.step(timeout=-1.0)


def test_the_prefix_cache_can_be_forgotten(engine: Engine) -> None:
    engine.add_request("a", list(range(3, 43)), GREEDY)
    drain(engine)
    assert engine.reset_prefix_cache()
    engine.add_request("b", list(range(3, 43)), GREEDY)
    (outputs,) = drain(engine).values()
    assert outputs[-1].num_cached_tokens == 0


def test_a_stopped_engine_says_so(engine: Engine) -> None:
    engine.check_health()
    engine.shutdown()
    engine.shutdown()
    with pytest.raises(EngineDeadError, match="the engine has stopped"):
        engine.check_health()
    with pytest.raises(EngineDeadError, match="the engine has stopped"):
        engine.add_request("a", [1], GREEDY)
    assert engine.step() == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "The decoder prompt cannot be empty"),
        ([-1], "prompt_token_ids must be a sequence of token ids, none of them negative"),
        (["a"], "prompt_token_ids must be a sequence of token ids"),
        ([2**31], r"Token id 2147483648 is out of vocabulary: the model has 320 tokens"),
        ([1] * 512, r"maximum context length is 512 tokens. However, your request has 512 input"),
    ],
)
def test_refuses_bad_prompts(engine: Engine, prompt: list[Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        engine.add_request("a", prompt, GREEDY)
    assert not engine.has_unfinished()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"priority": 2**31}, "priority must be an int of 32 bits"),
        ({"priority": "high"}, "priority must be an int of 32 bits"),
        ({"cache_salt": 7}, "cache_salt must be a str or None"),
    ],
)
def test_refuses_bad_request_options(engine: Engine, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        engine.add_request("a", [1], GREEDY, **options)
    assert caught.value.parameter == next(iter(options))
    assert not engine.has_unfinished()


def test_refuses_an_id_in_use(engine: Engine) -> None:
    engine.add_request("a", [1], GREEDY)
    with pytest.raises(ValidationError, match='request_id "a" is already in use'):
        engine.add_request("a", [1], GREEDY)
    drain(engine)
    engine.add_request("a", [1], GREEDY)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("logprobs", 21, "Requested sample logprobs of 21, which is greater than max allowed: 20"),
        ("stop_token_ids", [99999], "out-of-vocab token ids. Vocabulary size: 320"),
        ("allowed_token_ids", [99999], "allowed_token_ids contains out-of-vocab token id"),
        ("logit_bias", {99999: 1.0}, "out-of-vocab token ids"),
    ],
)
def test_refuses_what_the_model_cannot_sample(
    engine: Engine, field: str, value: Any, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        engine.add_request("a", [1], SamplingParams(**{field: value}))
    assert caught.value.parameter == field


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "int3"}, 'dtype must be one of auto, half, .* got "int3"'),
        ({"kv_cache_dtype": "fp8"}, 'kv_cache_dtype must be one of auto, .*, int8, got "fp8"'),
        (
            {"device": "tpu"},
            'device must be one of auto, cpu, cuda, cuda:<number>, reference, got "tpu"',
        ),
        ({"block_size": 24}, "block_size must be a multiple of 16"),
        ({"max_num_seqs": 0}, "max_num_seqs must be between 1"),
        ({"gpu_memory_utilization": 1.5}, r"gpu_memory_utilization must be in \(0, 1\], got 1.5"),
        ({"scheduling_policy": "lifo"}, "scheduling_policy must be one of fcfs, priority"),
        ({"logprobs_mode": "none"}, "logprobs_mode"),
        ({"hf_overrides": "[1]"}, "hf_overrides must be a JSON object"),
        ({"eos_token_ids": [5000]}, "eos_token_ids must be below the vocabulary size 320"),
        (
            {"max_model_len": 512, "num_gpu_blocks_override": 4},
            "max_model_len 512 needs 32 cache blocks of 16 tokens .* only 4 fit",
        ),
    ],
)
def test_refuses_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        open_engine(**options)


def test_refuses_a_length_past_the_models(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_model_len"):
        open_engine(max_model_len=100_000)


def test_shortens_to_what_the_cache_can_hold() -> None:
    engine = open_engine(num_gpu_blocks_override=4)
    assert engine.model_info.max_model_len == 64
    engine.add_request("a", [1] * 60, SamplingParams(max_tokens=100, ignore_eos=True))
    (outputs,) = drain(engine).values()
    assert (len(tokens(outputs)), outputs[-1].finish_reason) == (4, "length")


def nan_model(folder: Path) -> Path:
    """The golden Llama with a final norm that makes every logit NaN."""
    shutil.copytree(LLAMA, folder)
    weights = bytearray((folder / "model.safetensors").read_bytes())
    header_len = int.from_bytes(weights[:8], "little")
    header = json.loads(weights[8 : 8 + header_len])
    start, end = (8 + header_len + at for at in header["model.norm.weight"]["data_offsets"])
    weights[start:end] = b"\xff" * (end - start)
    (folder / "model.safetensors").write_bytes(weights)
    return folder


def test_a_sequence_that_cannot_be_sampled_ends_with_the_cause(tmp_path: Path) -> None:
    engine = open_engine(nan_model(tmp_path / "model"))
    engine.add_request("a", [1, 2, 3], GREEDY)
    (outputs,) = drain(engine).values()
    assert (outputs[-1].token_ids, outputs[-1].finish_reason) == ([], "error")
    assert outputs[-1].error == "the logit of token 0 is NaN; logits must be finite or -inf"
    assert engine.stats().num_free_blocks == engine.stats().num_blocks


def test_a_folder_with_code_is_read_and_the_code_is_not_run(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(LLAMA, folder)
    marker = tmp_path / "was_run"
    (folder / "modeling_x.py").write_text(f"open({str(marker)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_x.X"}
    (folder / "config.json").write_text(json.dumps(config))
    open_engine(folder).shutdown()
    assert not marker.exists()


def test_a_missing_folder_is_a_load_error(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"config\.json"):
        open_engine(tmp_path)


def test_progress_is_reported_up_to_the_whole() -> None:
    calls: list[tuple[int, int]] = []
    open_engine(progress=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 0
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
