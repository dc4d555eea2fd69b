"""Engine arguments: spellings, and what becomes of vLLM's that mean nothing here."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import pytest

from rustllm.engine_args import EngineArgs, parse_size
from rustllm.errors import ValidationError
from rustllm.logger import warning_once
from rustllm.unsupported_args import IGNORED, NEUTRAL


@pytest.fixture(autouse=True)
def _forget_warnings() -> None:
    warning_once.cache_clear()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("32k", 32_000),
        ("32K", 32_768),
        ("1.5k", 1500),
        ("2GiB", 2 * 2**30),
        ("2GB", 2 * 10**9),
        ("2g", 2 * 10**9),
        ("1M", 2**20),
    ],
)
def test_sizes(text: int | str, size: int) -> None:
    assert parse_size("max_model_len", text) == size


@pytest.mark.parametrize("text", ["", "k", "32 kg", "-5", "1.5", "0.0001k", True, None, 2.5])
def test_bad_sizes(text: Any) -> None:
    with pytest.raises(ValidationError, match="max_model_len must be a whole number") as caught:
        parse_size("max_model_len", text)
    assert caught.value.value == text


def test_defaults_and_spellings() -> None:
    args = EngineArgs()
    assert (args.model, args.max_num_seqs, args.max_num_batched_tokens) == ("default", 128, None)
    assert (args.block_size, args.gpu_memory_utilization, args.seed) == (16, 0.92, 0)
    assert args.served_model_names == ["default"]
    args = EngineArgs(model=None, max_model_len="auto", kv_cache_memory_bytes="1GiB")
    assert (args.model, args.max_model_len, args.kv_cache_memory_bytes) == ("default", None, 2**30)
    assert EngineArgs(max_model_len=-1).max_model_len is None
    assert EngineArgs(served_model_name="a").served_model_names == ["a"]
    assert EngineArgs(served_model_name=["a", "b"]).served_model_names == ["a", "b"]


@pytest.mark.parametrize(
    "kwargs",
    [{"tokenizer_mode": "slow"}, {"hf_overrides": lambda config: config}, {"max_model_len": "x"}],
)
def test_refused_values(kwargs: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        EngineArgs(**kwargs)
    assert caught.value.parameter in kwargs


def test_tables_do_not_overlap() -> None:
    ours = {item.name for item in dataclasses.fields(EngineArgs)}
    assert not ours & set(NEUTRAL)
    assert not ours & set(IGNORED)
    assert not set(NEUTRAL) & set(IGNORED)


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_neutral_values_pass_and_others_are_refused(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    accepted, reason = NEUTRAL[name]
    for value in accepted:
        EngineArgs.from_kwargs(**{name: value})
    assert not caplog.records
    with pytest.raises(
        ValidationError, match=f"{name}='something else' is not supported"
    ) as caught:
        EngineArgs.from_kwargs(**{name: "something else"})
    assert caught.value.parameter == name
    assert reason in str(caught.value)


def test_ignored_arguments_warn_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="rustllm"):
        EngineArgs.from_kwargs(disable_cascade_attn=True, swap_space=4)
        EngineArgs.from_kwargs(disable_cascade_attn=True)
        EngineArgs(trust_remote_code=True)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 3
    assert messages[0].startswith("disable_cascade_attn has no effect")
    assert messages[2] == "trust_remote_code has no effect: no model code is ever run"


def test_unknown_arguments_suggest_a_name() -> None:
    with pytest.raises(ValidationError, match="'max_model_length'; did you mean 'max_model_len'"):
        EngineArgs.from_kwargs(max_model_length=5)
    with pytest.raises(ValidationError, match=r"unknown engine argument 'zzz'$"):
        EngineArgs.from_kwargs(zzz=5)
    with pytest.raises(ValueError, match="tensor_parallel_size=2 is not supported"):
        EngineArgs.from_kwargs(tensor_parallel_size=2)
