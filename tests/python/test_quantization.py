"""`quantization=`: what is accepted, what is said, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest

from rustllm import LLM, SamplingParams, ValidationError
from rustllm.engine_args import EngineArgs

TEXT = '''
def mean(values: list[float]) -> float:
    """Return the arithmetic mean of the values."""
    if not values:
        raise ValueError("no values")
    total = 0.0
    for value in values:
        total += value
    return total / len(values)


class Counter:
    def __init__(self) -> None:
        self.count = 0

    def add(self, n: int = 1) -> None:
        self.count += n
'''


def loss(**options: Any) -> float:
    """Nats a token of `TEXT` under the model in the wheel."""
    llm = LLM(num_gpu_blocks_override=64, dtype="bfloat16", **options)
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    [output] = llm.generate(TEXT, params)
    assert output.prompt_token_ids is not None and output.prompt_logprobs is not None
    pairs = zip(output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True)
    scored = [entry[token].logprob for token, entry in pairs if entry is not None]
    assert len(scored) > 100
    return -sum(scored) / len(scored)


@pytest.fixture(scope="module")
def plain_loss() -> float:
    return loss()


@pytest.mark.parametrize(
    ("options", "cost"),
    [
        # Over 60 000 held-out tokens eight bits cost 0.0005 nats and four bits 0.025; this is one
        # short text.
        ({"quantization": "int8"}, 0.02),
        ({"quantization": "int4"}, 0.1),
        ({"quantization": "int4", "quantization_config": {"group_size": 64}}, 0.1),
        ({"quantization": "int4", "quantization_config": {"symmetric": False}}, 0.1),
    ],
)
def test_quantized_models_predict_nearly_as_well(
    options: dict[str, Any], cost: float, plain_loss: float
) -> None:
    quantized = loss(**options)
    assert quantized != plain_loss
    assert abs(quantized - plain_loss) < cost


def test_the_model_says_what_it_was_quantized_to() -> None:
    def described(**options: Any) -> str | None:
        llm = LLM(num_gpu_blocks_override=64, **options)
        return llm.llm_engine.model_info.quantization

    assert described() is None
    assert described(quantization="int8") == "int8"
    options = {"group_size": 128, "symmetric": False}
    quantization = described(quantization="int4", quantization_config=options)
    assert quantization == "int4 in groups of 128 with zero points"


@pytest.mark.parametrize(
    ("options", "parameter", "message"),
    [
        ({"quantization": "fp8"}, "quantization", 'must be None, int8 or int4, got "fp8"'),
        (
            {"quantization": "int4", "quantization_config": {"group_size": 48}},
            "quantization_config.group_size",
            "must be 32, 64 or 128, got 48",
        ),
        (
            {"quantization": "int8", "quantization_config": {"group_size": 32}},
            "quantization_config",
            "must be empty unless quantization is int4",
        ),
        (
            {"quantization_config": {"symmetric": False}},
            "quantization_config",
            "must be empty unless quantization is int4",
        ),
    ],
)
def test_the_engine_refuses_what_it_has_no_kernels_for(
    options: dict[str, Any], parameter: str, message: str
) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        LLM(**options)
    assert caught.value.parameter == parameter


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("int4", "quantization_config must be a dict, got str"),
        ({"bits": 4}, "has the options group_size and symmetric, got 'bits'"),
        (
            {"group_size": "64"},
            "group_size must be a positive whole number, got '64'",
        ),
        (
            {"group_size": True},
            "group_size must be a positive whole number, got True",
        ),
        (
            {"group_size": -1},
            "group_size must be a positive whole number, got -1",
        ),
        ({"symmetric": 1}, "quantization_config.symmetric must be True or False, got 1"),
    ],
)
def test_options_have_names_and_types(config: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        EngineArgs(quantization="int4", quantization_config=config)
