"""`AsyncEngine` end to end: streams, cancellation, shutdown, several event loops."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from rustllm import (
    LLM,
    AsyncEngine,
    EngineArgs,
    EngineDeadError,
    RequestOutput,
    RequestOutputKind,
    SamplingParams,
    ValidationError,
)

TEXTS = ["The river carries the water.", "a", "How many blocks are free? " * 6, "def step(x):"]
LONG = SamplingParams(n=8, max_tokens=900, ignore_eos=True, output_kind=RequestOutputKind.DELTA)
"""Takes the model in the wheel seconds, so that it still runs when a test ends it."""


def make_args(goldens: Path, **options: Any) -> EngineArgs:
    return EngineArgs(
        model=goldens / "chat_llama", dtype="float32", num_gpu_blocks_override=256, **options
    )


@pytest.fixture(scope="module")
def engine(goldens: Path) -> Iterator[AsyncEngine]:
    engine = AsyncEngine.from_engine_args(make_args(goldens))
    yield engine
    engine.shutdown()


@pytest.fixture(scope="module")
def default_engine() -> Iterator[AsyncEngine]:
    engine = AsyncEngine(EngineArgs(num_gpu_blocks_override=1024))
    yield engine
    engine.shutdown()


async def collect(
    engine: AsyncEngine, prompt: Any, params: SamplingParams, request_id: str = "r", **options: Any
) -> list[RequestOutput]:
    return [output async for output in engine.generate(prompt, params, request_id, **options)]


async def all_gone(engine: AsyncEngine) -> None:
    """Waits until the engine itself has nothing to run."""

    async def poll() -> None:
        while engine.model.engine.has_unfinished() or engine.stats().num_running:
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), 30)


def test_streams_of_every_kind_agree(engine: AsyncEngine, goldens: Path) -> None:
    llm = LLM.from_engine_args(make_args(goldens))
    options: dict[str, Any] = {"max_tokens": 24, "seed": 3, "logprobs": 1, "n": 2}
    [expected] = llm.generate(TEXTS[0], SamplingParams(**options))

    async def stream(kind: RequestOutputKind) -> list[RequestOutput]:
        params = SamplingParams(**options, output_kind=kind)
        return await collect(engine, TEXTS[0], params)

    async def main() -> list[list[RequestOutput]]:
        return [await stream(kind) for kind in RequestOutputKind]

    cumulative, deltas, final = asyncio.run(main())
    assert [output.finished for output in deltas].count(True) == 1
    assert deltas[-1].finished
    joined = deltas[0]
    for delta in deltas[1:]:
        joined.add(delta, aggregate=True)
    joined.outputs.sort(key=lambda completion: completion.index)
    assert len(final) == 1
    for output in (cumulative[-1], joined, final[0]):
        assert output.outputs == expected.outputs
        assert (output.request_id, output.prompt) == ("r", TEXTS[0])


def test_many_at_once_equal_one_at_a_time(engine: AsyncEngine) -> None:
    params = [
        SamplingParams(max_tokens=16, seed=seed, temperature=1.0, stop=["e"], min_tokens=seed % 7)
        for seed in range(24)
    ]

    async def run(number: int) -> RequestOutput:
        prompt = TEXTS[number % len(TEXTS)]
        return (await collect(engine, prompt, params[number], f"request-{number}"))[-1]

    async def together() -> list[RequestOutput]:
        return await asyncio.gather(*map(run, range(24)))

    async def apart() -> list[RequestOutput]:
        return [await run(number) for number in range(24)]

    batch = asyncio.run(together())
    assert [item.outputs for item in batch] == [item.outputs for item in asyncio.run(apart())]
    assert [item.request_id for item in batch] == [f"request-{number}" for number in range(24)]


def test_a_cancelled_task_aborts_its_request(default_engine: AsyncEngine) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async def read() -> None:
            async for _ in default_engine.generate(TEXTS[0], LONG, "cancelled"):
                started.set()

        task = asyncio.create_task(read())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert default_engine.num_unfinished_requests == 0
        await all_gone(default_engine)
        assert (await collect(default_engine, TEXTS[1], SamplingParams(), "cancelled"))[-1].finished

    asyncio.run(main())


def test_a_closed_generator_aborts_its_request(default_engine: AsyncEngine) -> None:
    async def main() -> None:
        async with aclosing(default_engine.generate(TEXTS[0], LONG, "closed")) as outputs:
            async for output in outputs:
                assert not output.finished
                break
        assert default_engine.num_unfinished_requests == 0
        await all_gone(default_engine)

    asyncio.run(main())


def test_abort_ends_the_stream_with_an_output(default_engine: AsyncEngine) -> None:
    async def main() -> None:
        outputs = []
        async for output in default_engine.generate(TEXTS[0], LONG, "aborted"):
            outputs.append(output)
            await default_engine.abort("aborted")
        assert outputs[-1].finished
        reasons = [item.finish_reason for output in outputs for item in output.outputs]
        assert [reason for reason in reasons if reason] == ["abort"] * 8
        await default_engine.abort(["aborted", "unknown"])

    asyncio.run(main())


def test_a_slow_reader_misses_nothing(engine: AsyncEngine) -> None:
    params = SamplingParams(
        max_tokens=64, ignore_eos=True, seed=1, output_kind=RequestOutputKind.DELTA
    )

    async def main() -> None:
        token_ids: list[int] = []
        outputs = 0
        async for output in engine.generate(TEXTS[0], params, "slow"):
            token_ids += output.outputs[0].token_ids
            outputs += 1
            await all_gone(engine)
        assert outputs < 64, "steps in between came as one output"
        whole = await collect(
            engine, TEXTS[0], SamplingParams(max_tokens=64, ignore_eos=True, seed=1)
        )
        assert token_ids == whole[-1].outputs[0].token_ids

    asyncio.run(main())


def test_ids_in_use_and_bad_requests_harm_no_other(default_engine: AsyncEngine) -> None:
    async def main() -> None:
        running = default_engine.generate(TEXTS[0], LONG, "same")
        await anext(running)
        for prompt, params, message in (
            (TEXTS[1], SamplingParams(), "request_id 'same' is in use"),
            ([9999], SamplingParams(), "vocab"),
            ([5] * 5000, SamplingParams(), "max"),
            ({"prompt_embeds": 1}, SamplingParams(), "prompt_embeds"),
            ("a", SamplingParams(logprobs=21), "20"),
            ("a", {"n": 1}, "must be SamplingParams"),
        ):
            request_id = "same" if "same" in message else "other"
            with pytest.raises(ValidationError, match=message):
                await collect(default_engine, prompt, params, request_id)  # type: ignore[arg-type]
        assert default_engine.num_unfinished_requests == 1
        assert not (await anext(running)).finished
        await running.aclose()
        await all_gone(default_engine)

    asyncio.run(main())


def test_prompt_text_priority_and_metrics(engine: AsyncEngine) -> None:
    async def main() -> None:
        outputs = await collect(
            engine, [5, 6, 7], SamplingParams(max_tokens=2), prompt_text="text", priority=3
        )
        assert outputs[-1].prompt == "text"
        assert outputs[-1].metrics is not None
        assert outputs[-1].metrics.num_generation_tokens == 2

    asyncio.run(main())


def test_long_texts_are_tokenized_off_the_loop(engine: AsyncEngine) -> None:
    text = "the river " * 20_000

    async def main() -> None:
        options = {"truncate_prompt_tokens": 8}
        outputs = await collect(
            engine, text, SamplingParams(max_tokens=1), tokenization_kwargs=options
        )
        assert outputs[-1].prompt_token_ids == engine.get_tokenizer().encode(text)[-8:]

    asyncio.run(main())


def test_requests_of_several_event_loops(engine: AsyncEngine) -> None:
    results: dict[int, list[int]] = {}

    def work(number: int) -> None:
        params = SamplingParams(max_tokens=20, seed=number, ignore_eos=True)
        outputs = asyncio.run(collect(engine, TEXTS[0], params, f"loop-{number}"))
        results[number] = outputs[-1].outputs[0].token_ids

    threads = [threading.Thread(target=work, args=[number]) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2]
    assert all(len(token_ids) == 20 for token_ids in results.values())


def test_a_loop_that_goes_away_takes_its_requests_along(default_engine: AsyncEngine) -> None:
    loop = asyncio.new_event_loop()
    outputs = default_engine.generate(TEXTS[0], LONG, "left behind")
    loop.run_until_complete(anext(outputs))
    loop.close()
    asyncio.run(all_gone(default_engine))
    assert default_engine.num_unfinished_requests == 0
    assert default_engine.is_running


def test_health_and_properties(engine: AsyncEngine) -> None:
    asyncio.run(engine.check_health())
    assert (engine.is_running, engine.is_stopped, engine.errored) == (True, False, False)
    assert engine.max_model_len == engine.model_info.max_model_len
    assert engine.default_sampling_fields["temperature"] == 0.7
    assert engine.get_default_sampling_params().top_k == 20
    assert asyncio.run(engine.reset_prefix_cache())


def test_shutdown_fails_what_waits() -> None:
    engine = AsyncEngine(EngineArgs(num_gpu_blocks_override=1024))

    async def main() -> None:
        first = asyncio.create_task(collect(engine, TEXTS[0], LONG, "1"))
        second = asyncio.create_task(collect(engine, TEXTS[1], LONG, "2"))
        while engine.num_unfinished_requests < 2:
            await asyncio.sleep(0)
        engine.shutdown()
        engine.shutdown()
        for task in (first, second):
            with pytest.raises(EngineDeadError, match="has been shut down"):
                await task
        with pytest.raises(EngineDeadError):
            await collect(engine, TEXTS[0], LONG)
        with pytest.raises(EngineDeadError):
            await engine.check_health()
        await engine.abort("1")

    asyncio.run(main())
    assert (engine.is_running, engine.is_stopped, engine.errored) == (False, True, False)


def test_an_engine_that_died_while_idle_is_not_healthy() -> None:
    engine = AsyncEngine(EngineArgs(num_gpu_blocks_override=1024))
    engine.model.engine.shutdown()
    with pytest.raises(EngineDeadError, match="it was shut down"):
        asyncio.run(engine.check_health())


def test_a_dead_engine_fails_what_waits() -> None:
    engine = AsyncEngine(EngineArgs(num_gpu_blocks_override=1024))

    async def main() -> None:
        outputs = engine.generate(TEXTS[0], LONG, "1")
        await anext(outputs)
        engine.model.engine.shutdown()
        with pytest.raises(EngineDeadError):
            async for _ in outputs:
                pass
            await collect(engine, TEXTS[0], LONG)

    asyncio.run(main())
    engine.shutdown()


def test_an_engine_nobody_holds_is_collected(goldens: Path) -> None:
    engine = AsyncEngine(make_args(goldens))
    asyncio.run(collect(engine, "a", SamplingParams(max_tokens=1)))
    steps = weakref.ref(engine._steps)
    del engine
    gc.collect()
    assert steps() is None


PROGRAM = """
import asyncio, sys
from rustllm import AsyncEngine, EngineArgs, SamplingParams

engine = AsyncEngine(EngineArgs(model=sys.argv[1], num_gpu_blocks_override=64))

async def main():
    outputs = engine.generate("a", SamplingParams(max_tokens=100, ignore_eos=True), "1")
    async for output in outputs:
        break
    await outputs.aclose()
    async for output in engine.generate("b", SamplingParams(max_tokens=5), "2"):
        pass

asyncio.run(main(), debug=True)
if len(sys.argv) > 2:
    engine.shutdown()
"""


@pytest.mark.parametrize("shutdown", [[], ["shutdown"]])
def test_a_program_ends_cleanly_in_development_mode(goldens: Path, shutdown: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", PROGRAM, str(goldens / "chat_llama"), *shutdown],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
