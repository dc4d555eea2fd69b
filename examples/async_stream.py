"""Stream two completions at once, a token at a time, from one asyncio program."""

import asyncio

from rustllm import AsyncEngine, EngineArgs, RequestOutputKind, SamplingParams


async def stream(engine: AsyncEngine, name: str, prompt: str) -> str:
    params = SamplingParams(max_tokens=32, seed=1, output_kind=RequestOutputKind.DELTA)
    text = ""
    async for output in engine.generate(prompt, params, request_id=name):
        text += output.outputs[0].text
        print(f"{name}: {output.outputs[0].text!r}")
    return text


async def main() -> None:
    engine = AsyncEngine.from_engine_args(EngineArgs())
    try:
        texts = await asyncio.gather(
            stream(engine, "first", "def read_file(path):"),
            stream(engine, "second", "for name in sorted("),
        )
        print(*texts, sep="\n---\n")
    finally:
        engine.shutdown()


if __name__ == "__main__":
    asyncio.run(main())
