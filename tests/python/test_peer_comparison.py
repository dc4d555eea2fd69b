"""The script that compares rustllm with other engines: benches/peers."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines import Contestant
from processes import RunnerError, RunnerProcess
from roofline import Limits, ModelShape, limit_value
from table import Cell, Group, ratio, share
from workloads import WORKLOADS, measure, prompts

RUNNER = """
import json, sys
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    request = json.loads(line)
    if request["workload"] == "bad":
        print(json.dumps({"error": "no such workload"}), flush=True)
    else:
        print(json.dumps({"value": 2.5}), flush=True)
"""


@pytest.fixture
def runner() -> Iterator[RunnerProcess]:
    contestant = Contestant("fake", [sys.executable, "-c", RUNNER])
    with tempfile.TemporaryFile() as log:
        process = RunnerProcess(contestant, log, timeout=60.0)
        yield process
        process.close()


def state(process: RunnerProcess) -> set[str]:
    return {stat[0] for _, stat in process._processes()}


def test_a_seed_gives_the_same_prompts_with_the_shared_beginning() -> None:
    workload = WORKLOADS["prefix"]
    batch = prompts(workload, 1000, "0")
    assert batch == prompts(workload, 1000, "0") != prompts(workload, 1000, "1")
    assert {tuple(prompt[: workload.shared]) for prompt in batch} == {
        tuple(batch[0][: workload.shared])
    }
    assert len({tuple(prompt) for prompt in batch}) == workload.requests
    assert {len(prompt) for prompt in batch} == {workload.prompt_len}


def test_an_engine_that_makes_too_few_tokens_has_no_figure() -> None:
    with pytest.raises(RuntimeError, match="16 requests of 128 tokens gave 2047 tokens"):
        measure(lambda batch, new: len(batch) * new - 1, WORKLOADS["batch16"], 1000, "0")


def test_decode_leaves_out_the_time_to_the_first_token(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = 0.0

    def generate(batch: list[list[int]], new: int) -> int:
        nonlocal clock
        clock += 5.0 + 0.5 * (new - 1)
        return len(batch) * new

    monkeypatch.setattr("workloads.time.perf_counter", lambda: clock)
    assert measure(generate, WORKLOADS["decode"], 1000, "0") == pytest.approx(2.0)


def test_limits_are_bytes_for_decode_and_operations_for_prefill() -> None:
    shape = ModelShape(layers=2, layer_weights=10**6, head_weights=10**6, query_size=1, kv_size=1)
    limits = Limits(read_bytes=6e6, float_ops=4e9, int8_ops=1e12)
    decode = limit_value(WORKLOADS["decode"], shape, "bf16", limits)
    assert decode == pytest.approx(1.0, rel=1e-3)
    assert limit_value(WORKLOADS["decode"], shape, "int8", limits) == pytest.approx(2.0, rel=1e-3)
    quick = Limits(read_bytes=1e12, float_ops=4.0e9, int8_ops=1e12)
    prefill = limit_value(WORKLOADS["prefill"], shape, "bf16", quick)
    assert prefill == pytest.approx(1000.0, rel=2e-3)


@pytest.mark.parametrize(
    ("workload", "faster", "limit", "expected"),
    [("decode", 20.0, 40.0, "50 %"), ("prefix", 5.0, 4.0, "80 %")],
)
def test_ratios_say_how_much_faster_ours_is(
    workload: str, faster: float, limit: float, expected: str
) -> None:
    slower = 10.0
    ours, peer = Cell("rustllm", [faster] * 3), Cell("peer", [slower] * 3)
    group = Group("M1", "bf16", WORKLOADS[workload], [ours, peer], limit=limit)
    assert ratio(group, peer) == "2.00"
    assert share(group, ours) == expected


def test_a_ratio_pairs_what_stood_side_by_side() -> None:
    ours, peer = Cell("rustllm", [10.0, 30.0, 20.0]), Cell("peer", [5.0, 30.0, 5.0])
    group = Group("M1", "bf16", WORKLOADS["decode"], [ours, peer])
    assert ratio(group, peer) == "2.00"


def test_a_runner_answers_is_held_and_ends(runner: RunnerProcess) -> None:
    assert runner.ask(workload="decode", seed="0") == {"value": 2.5}
    runner.hold()
    assert state(runner) == {"T"}
    runner.go_on()
    assert runner.ask(workload="decode", seed="1") == {"value": 2.5}
    assert runner.peak_bytes() > 1_000_000
    runner.hold()
    runner.close()
    assert state(runner) == set()


def test_an_error_of_a_runner_names_it(runner: RunnerProcess) -> None:
    with pytest.raises(RunnerError, match="fake: no such workload"):
        runner.ask(workload="bad", seed="0")


def test_a_runner_that_ends_is_an_error(tmp_path: Path) -> None:
    contestant = Contestant("broken", [sys.executable, "-c", "raise SystemExit(1)"])
    with (tmp_path / "log").open("wb") as log, pytest.raises(RunnerError, match="broken ended"):
        RunnerProcess(contestant, log, timeout=60.0)
