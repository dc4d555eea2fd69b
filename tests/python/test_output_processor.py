"""From the engine's outputs to users': hand-made steps, a real tokenizer."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rustllm.errors import ValidationError
from rustllm.output_processor import OutputProcessor, RequestState
from rustllm.outputs import CompletionOutput, Logprob, RequestOutput
from rustllm.processor import EngineRequest
from rustllm.sampling_params import RequestOutputKind, SamplingParams
from rustllm.tokenizer import Tokenizer

CUMULATIVE, DELTA, FINAL_ONLY = RequestOutputKind

PROMPT = [40, 41, 42]


@dataclass
class Step:
    """What `rustllm._core.EngineOutput` holds, with its defaults."""

    request_id: str
    token_ids: list[int]
    index: int = 0
    finish_reason: str | None = None
    stop_reason: int | None = None
    error: str | None = None
    logprobs: list[list[tuple[int, float, int]]] | None = None
    prompt_logprobs: list[list[tuple[int, float, int]] | None] | None = None
    num_cached_tokens: int = 0
    num_preemptions: int = 0


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return Tokenizer.from_folder(goldens / "chat_llama")


@dataclass
class Driver:
    """Feeds steps of one request to a processor."""

    tokenizer: Tokenizer
    params: dict[str, Any]
    prompt: str | None = "abc"
    aborted: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.processor: OutputProcessor[None] = OutputProcessor(self.tokenizer, with_metrics=True)
        request = EngineRequest(self.prompt, PROMPT, SamplingParams(**self.params), None)
        state = self.processor.add("request", request, None)
        assert isinstance(state, RequestState)
        self.state: RequestState[None] = state

    def step(self, *steps: dict[str, Any]) -> RequestOutput | None:
        """One step with these outputs; returns the request's output, if there is one."""
        made = [Step(self.state.engine_id, **step) for step in steps]
        processed = self.processor.process(made)  # type: ignore[arg-type]
        for _, error in processed.failures:
            raise error
        self.aborted += processed.to_abort
        output = processed.outputs[0][1] if processed.outputs else None
        assert output is None or isinstance(output, RequestOutput)
        return output


@pytest.fixture
def drive(tokenizer: Tokenizer) -> Any:
    def make(**params: Any) -> Driver:
        return Driver(tokenizer, params)

    return make


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False)


def test_cumulative(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive()
    a, b, c = ids(tokenizer, "the river carries")[:3]
    first = driver.step({"token_ids": [a], "num_cached_tokens": 2})
    assert (first.request_id, first.prompt, first.prompt_token_ids) == ("request", "abc", PROMPT)
    assert (first.finished, first.num_cached_tokens) == (False, 2)
    assert first.outputs[0].token_ids == [a]
    assert first.outputs[0].text == tokenizer.decode([a])
    assert first.outputs[0].logprobs is first.outputs[0].cumulative_logprob is None
    last = driver.step({"token_ids": [b, c], "finish_reason": "length"})
    assert last.finished
    assert last.outputs[0].finished()
    assert last.outputs[0].token_ids == [a, b, c]
    assert last.outputs[0].text == tokenizer.decode([a, b, c])
    assert (last.outputs[0].finish_reason, last.outputs[0].stop_reason) == ("length", None)
    assert first.outputs[0].token_ids == [a], "outputs handed out do not change"
    assert len(driver.processor) == 0
    assert not driver.aborted


def test_delta(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive(output_kind=DELTA, logprobs=0)
    tokens = ids(tokenizer, "the river carries")
    outputs = [
        driver.step({"token_ids": [token], "logprobs": [[(token, -0.5, 1)]]}) for token in tokens
    ]
    outputs.append(driver.step({"token_ids": [], "finish_reason": "abort"}))
    completions = [output.outputs[0] for output in outputs]
    assert [completion.token_ids for completion in completions] == [*([t] for t in tokens), []]
    assert "".join(completion.text for completion in completions) == "the river carries"
    assert [len(completion.logprobs) for completion in completions] == [1] * len(tokens) + [0]
    assert completions[-1].finish_reason == "abort"
    assert outputs[-1].finished


def test_final_only(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive(output_kind=FINAL_ONLY, n=2)
    a, b = ids(tokenizer, "the river")[:2]
    assert driver.step({"token_ids": [a]}, {"token_ids": [b], "index": 1}) is None
    assert driver.step({"token_ids": [b], "finish_reason": "length"}) is None
    last = driver.step({"token_ids": [a], "index": 1, "finish_reason": "length"})
    assert [item.index for item in last.outputs] == [0, 1]
    assert [item.token_ids for item in last.outputs] == [[a, b], [b, a]]
    assert last.metrics.num_generation_tokens == 4


def test_n_completions_as_deltas_are_those_that_changed(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive(output_kind=DELTA, n=3)
    [a] = ids(tokenizer, "a")
    output = driver.step({"token_ids": [a], "index": 2}, {"token_ids": [a], "index": 0})
    assert [item.index for item in output.outputs] == [2, 0]
    driver = drive(n=3)
    output = driver.step({"token_ids": [a], "index": 2})
    assert [item.token_ids for item in output.outputs] == [[], [], [a]]


def test_a_stop_string_ends_the_request_in_the_engine(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive(stop=["river"], logprobs=1)
    tokens = ids(tokenizer, "the river carries the water")
    logprobs = [[(token, -1.0, 1), (7, -2.0, 2)] for token in tokens]
    output = driver.step({"token_ids": tokens, "logprobs": logprobs})
    [completion] = output.outputs
    assert output.finished
    assert completion.text == "the "
    assert (completion.finish_reason, completion.stop_reason) == ("stop", "river")
    count = len(completion.token_ids)
    assert "river" in tokenizer.decode(tokens[:count])
    assert "river" not in tokenizer.decode(tokens[: count - 1])
    assert len(completion.logprobs) == count
    assert completion.cumulative_logprob == -1.0 * count
    assert driver.aborted == [(driver.state.engine_id, 0)]
    assert driver.step({"token_ids": tokens}) is None, "what still comes is dropped"


def test_a_stop_string_of_one_completion_leaves_the_others(
    drive: Any, tokenizer: Tokenizer
) -> None:
    driver = drive(stop=["river"], n=2)
    tokens = ids(tokenizer, "the river")
    [a] = ids(tokenizer, "a")
    output = driver.step({"token_ids": tokens}, {"token_ids": [a], "index": 1})
    assert [item.finish_reason for item in output.outputs] == ["stop", None]
    assert driver.aborted == [(driver.state.engine_id, 0)], "the engine need not go on with it"
    output = driver.step({"token_ids": [a]}, {"token_ids": [a], "index": 1})
    assert output.outputs[0].token_ids == tokens
    output = driver.step(
        {"token_ids": [], "finish_reason": "abort"},
        {"token_ids": [a], "index": 1, "finish_reason": "length"},
    )
    assert output.finished
    assert [item.finish_reason for item in output.outputs] == ["stop", "length"]


def test_stop_tokens_and_end_of_sequence(drive: Any, tokenizer: Tokenizer) -> None:
    tokens = ids(tokenizer, "the river")
    for token, reason in ((2, None), (50, 50)):
        driver = drive()
        step = {"token_ids": [*tokens, token], "finish_reason": "stop", "stop_reason": reason}
        output = driver.step(step)
        [completion] = output.outputs
        assert completion.text == "the river"
        assert completion.token_ids == [*tokens, token]
        assert (completion.finish_reason, completion.stop_reason) == ("stop", reason)
        assert not driver.aborted


def test_logprobs_carry_text_and_rank(drive: Any, tokenizer: Tokenizer) -> None:
    driver = drive(logprobs=2)
    a, b = ids(tokenizer, "the river")[:2]
    output = driver.step({"token_ids": [a], "logprobs": [[(a, -3.0, 9), (b, -0.1, 1), (5, -1, 2)]]})
    [entries] = output.outputs[0].logprobs
    assert list(entries) == [a, b, 5]
    assert entries[a] == Logprob(-3.0, 9, tokenizer.decode_token(a))
    assert entries[b].decoded_token == tokenizer.decode_token(b)
    assert output.outputs[0].cumulative_logprob == -3.0


@pytest.mark.parametrize("kind", [CUMULATIVE, DELTA])
def test_prompt_logprobs(drive: Any, tokenizer: Tokenizer, kind: RequestOutputKind) -> None:
    driver = drive(prompt_logprobs=1, output_kind=kind)
    given = [None, [(41, -1.0, 1)], [(42, -2.0, 3), (50, -0.5, 1)]]
    first = driver.step({"token_ids": [60], "prompt_logprobs": given})
    assert first.prompt_logprobs[0] is None
    assert first.prompt_logprobs[2] == {
        42: Logprob(-2.0, 3, tokenizer.decode_token(42)),
        50: Logprob(-0.5, 1, tokenizer.decode_token(50)),
    }
    second = driver.step({"token_ids": [60]})
    assert (second.prompt_logprobs is None) == (kind is DELTA)


def test_without_detokenization_there_is_no_text(drive: Any) -> None:
    driver = drive(detokenize=False, logprobs=0)
    output = driver.step({"token_ids": [60], "logprobs": [[(60, -1.0, 1)]]})
    assert output.outputs[0].text == ""
    assert output.outputs[0].token_ids == [60]
    assert output.outputs[0].logprobs == [{60: Logprob(-1.0, 1, None)}]


def test_metrics(drive: Any) -> None:
    driver = drive()
    metrics = driver.step({"token_ids": [60], "num_preemptions": 1}).metrics
    assert metrics.arrival_time > 1e9
    assert metrics.queued_ts <= metrics.first_token_ts == metrics.last_token_ts
    assert metrics.first_token_latency == metrics.first_token_ts - metrics.queued_ts
    later = driver.step({"token_ids": [60, 60], "num_preemptions": 2}).metrics
    assert (later.num_generation_tokens, later.num_preemptions) == (3, 2)
    assert metrics.num_generation_tokens == 1
    assert later.first_token_ts == metrics.first_token_ts


def test_a_request_that_cannot_be_processed_fails_alone(tokenizer: Tokenizer) -> None:
    processor: OutputProcessor[str] = OutputProcessor(tokenizer, with_metrics=False)
    request = EngineRequest(None, PROMPT, SamplingParams(), None)
    bad, good = processor.add("bad", request, "a"), processor.add("good", request, "b")
    steps = [Step(bad.engine_id, [60], index=5), Step(good.engine_id, [60])]
    processed = processor.process(steps)  # type: ignore[arg-type]
    assert [state.sink for state, _ in processed.failures] == ["a"]
    assert [state.sink for state, _ in processed.outputs] == ["b"]
    assert processed.to_abort == [(bad.engine_id, 0)]
    assert [state.request_id for state in processor.running()] == ["good"]
    assert isinstance(processed.outputs[0][1], RequestOutput)
    assert processed.outputs[0][1].metrics is None
    output = bad.error_output()
    assert isinstance(output, RequestOutput)
    assert (output.finished, output.outputs[0].finish_reason) == (True, "error")


def test_request_ids(tokenizer: Tokenizer) -> None:
    processor: OutputProcessor[None] = OutputProcessor(tokenizer, with_metrics=True)
    request = EngineRequest(None, PROMPT, SamplingParams(), None)
    first = processor.add("a", request, None)
    with pytest.raises(ValidationError, match="request_id 'a' is in use"):
        processor.add("a", request, None)
    with pytest.raises(ValidationError, match="request_id must be a string, got int"):
        processor.add(5, request, None)  # type: ignore[arg-type]
    assert processor.find(["a", "b"]) == [first]
    assert processor.remove(first)
    assert not processor.remove(first)
    again = processor.add("a", request, None)
    assert again.engine_id != first.engine_id
    assert not processor.remove(first), "an ended request does not end its namesake"
    assert processor.find(["a"]) == [again]


def test_outputs_join(tokenizer: Tokenizer) -> None:
    def output(*completions: CompletionOutput, finished: bool = False) -> RequestOutput:
        return RequestOutput("r", None, PROMPT, None, list(completions), finished)

    first = output(CompletionOutput(0, "a", [1], -1.0, [{1: Logprob(-1.0)}]))
    first.add(
        output(
            CompletionOutput(0, "b", [2], -3.0, [{2: Logprob(-2.0)}], "stop", "x"),
            CompletionOutput(1, "c", [3]),
            finished=True,
        ),
        aggregate=True,
    )
    joined, other = first.outputs
    assert (joined.text, joined.token_ids, joined.cumulative_logprob) == ("ab", [1, 2], -3.0)
    assert joined.logprobs == [{1: Logprob(-1.0)}, {2: Logprob(-2.0)}]
    assert (joined.finish_reason, joined.stop_reason, other.text) == ("stop", "x", "c")
    assert first.finished
    first.add(output(CompletionOutput(0, "whole", [9])), aggregate=False)
    assert first.outputs[0].text == "whole"
    assert pickle.loads(pickle.dumps(first)) == first
