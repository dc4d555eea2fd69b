"""An engine for the command line: one answer at a time, written as it comes."""

import asyncio
import contextlib
import itertools
import signal
from collections.abc import Callable
from typing import Any

from rustllm.async_engine import AsyncEngine
from rustllm.engine_args import EngineArgs
from rustllm.outputs import RequestOutput
from rustllm.sampling_params import RequestOutputKind, SamplingParams


class Session(contextlib.AbstractContextManager["Session"]):
    """Loads a model; ends with it.

    Args:
        args: The engine's arguments.
    """

    def __init__(self, args: EngineArgs) -> None:
        self._loop = asyncio.new_event_loop()
        self._ids = itertools.count()
        self.engine = AsyncEngine.from_engine_args(args)

    def __exit__(self, *_: object) -> None:
        self.engine.shutdown()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def sampling_params(
        self, values: dict[str, Any], default_max_tokens: int | None
    ) -> SamplingParams:
        """What the user asked for, over the model's own defaults."""
        defaults = {"max_tokens": default_max_tokens, **self.engine.default_sampling_fields}
        return SamplingParams.from_optional(**{**defaults, **values})

    def complete(self, prompt: Any, params: SamplingParams) -> RequestOutput:
        """The whole answer.

        Raises:
            KeyboardInterrupt: the user interrupted it.
        """
        outputs: list[RequestOutput] = []
        self._run(prompt, params, RequestOutputKind.FINAL_ONLY, outputs.append)
        return outputs[-1]

    def stream(self, prompt: Any, params: SamplingParams, write: Callable[[str], object]) -> None:
        """Writes the answer's text piece by piece.

        Raises:
            KeyboardInterrupt: the user interrupted it.
        """

        def write_delta(output: RequestOutput) -> None:
            text = output.outputs[0].text
            if text:
                write(text)

        self._run(prompt, params, RequestOutputKind.DELTA, write_delta)

    def _run(
        self,
        prompt: Any,
        params: SamplingParams,
        kind: RequestOutputKind,
        take: Callable[[RequestOutput], object],
    ) -> None:
        """Runs one request; Ctrl-C aborts it and leaves the engine fit for the next."""
        wanted = params.clone()
        wanted.output_kind = kind

        async def consume() -> None:
            outputs = self.engine.generate(prompt, wanted, f"cli-{next(self._ids)}")
            async with contextlib.aclosing(outputs):
                async for output in outputs:
                    take(output)

        task = self._loop.create_task(consume())
        self._loop.add_signal_handler(signal.SIGINT, task.cancel)
        try:
            self._loop.run_until_complete(task)
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None
        finally:
            self._loop.remove_signal_handler(signal.SIGINT)
