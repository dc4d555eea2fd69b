"""`AsyncEngine.encode` and `pool`, and pooling requests through `LLMEngine`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rustllm import (
    AsyncEngine,
    EngineArgs,
    LLMEngine,
    PoolingParams,
    PoolingRequestOutput,
    SamplingParams,
    ValidationError,
)
from rustllm.inputs import ParsedPrompt

EMBED = PoolingParams(task="embed")


@pytest.fixture(scope="module")
def engine(sentence_model: Path) -> Iterator[AsyncEngine]:
    engine = AsyncEngine(EngineArgs(model=str(sentence_model), dtype="float32"))
    yield engine
    engine.shutdown()


async def encode(engine: AsyncEngine, text: str, request_id: str) -> PoolingRequestOutput[Any]:
    [output] = [item async for item in engine.encode(text, EMBED, request_id)]
    return output


def test_coroutines_get_their_own_results(engine: AsyncEngine) -> None:
    async def together() -> list[PoolingRequestOutput[Any]]:
        return await asyncio.gather(*(encode(engine, chr(97 + i), str(i)) for i in range(20)))

    outputs = asyncio.run(together())
    assert [output.request_id for output in outputs] == [str(i) for i in range(20)]
    alone = asyncio.run(encode(engine, "c", "alone"))
    assert np.array_equal(outputs[2].outputs.data, alone.outputs.data)
    assert len({output.outputs.data.tobytes() for output in outputs}) == 20


def test_a_cancelled_batch_is_aborted_and_the_engine_goes_on(engine: AsyncEngine) -> None:
    requests = engine.pooling_processor.process(
        [ParsedPrompt("ab " * 20, None)] * 300, [EMBED] * 300, "embed"
    )

    async def cancel() -> None:
        task = asyncio.create_task(engine.pool(requests, [f"c{i}" for i in range(300)]))
        await asyncio.sleep(0)
        assert engine.num_unfinished_requests > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert engine.num_unfinished_requests == 0

    asyncio.run(cancel())
    assert asyncio.run(encode(engine, "a", "after")).finished


def test_refusals(engine: AsyncEngine) -> None:
    requests = engine.pooling_processor.process([ParsedPrompt("a", None)], [EMBED], "embed")
    with pytest.raises(ValidationError, match="in use"):
        asyncio.run(engine.pool([*requests, *requests], ["same", "same"]))
    assert engine.num_unfinished_requests == 0
    with pytest.raises(ValidationError, match="task must be one of"):
        asyncio.run(anext(engine.encode("a", PoolingParams(), "x")))
    with pytest.raises(ValidationError, match="does not generate text"):
        asyncio.run(anext(engine.generate("a", SamplingParams(), "x")))


def test_an_engine_that_is_stepped(sentence_model: Path) -> None:
    engine = LLMEngine(EngineArgs(model=str(sentence_model), dtype="float32"))
    for i in range(3):
        engine.add_request(f"r{i}", "abc", EMBED)
    outputs: list[Any] = []
    while engine.has_unfinished_requests():
        outputs += engine.step()
    assert sorted(output.request_id for output in outputs) == ["r0", "r1", "r2"]
    assert all(output.outputs.data.shape == (24,) for output in outputs)
    engine.add_request("gone", "abc", EMBED)
    engine.abort_request("gone")
    assert not engine.has_unfinished_requests()
