"""The progress bar of `LLM`'s methods: requests done, and tokens a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from rustllm.output_processor import AnyOutput
from rustllm.outputs import RequestOutput

__all__ = ["RequestsBar"]


class RequestsBar:
    """Counts finished requests.

    Args:
        total: Requests there are.
        use_tqdm: Whether to show a bar (on a terminal), or what makes one.
    """

    def __init__(self, total: int, use_tqdm: bool | Callable[..., Any]) -> None:
        self._bar = _make_bar(total, use_tqdm) if total else None
        self._begin = time.monotonic()
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0

    def __enter__(self) -> RequestsBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, output: AnyOutput) -> None:
        """Takes in a finished request."""
        if self._bar is None:
            return
        self._num_prompt_tokens += len(output.prompt_token_ids)
        if isinstance(output, RequestOutput):
            self._num_generated_tokens += sum(len(item.token_ids) for item in output.outputs)
        seconds = max(time.monotonic() - self._begin, 1e-9)
        prompt_rate = self._num_prompt_tokens / seconds
        rate = self._num_generated_tokens / seconds
        self._bar.postfix = f"est. speed input: {prompt_rate:.2f} toks/s, output: {rate:.2f} toks/s"
        self._bar.update(1)


def _make_bar(total: int, use_tqdm: bool | Callable[..., Any]) -> Any:
    if not use_tqdm:
        return None
    options: dict[str, Any] = {
        "total": total,
        "desc": "Processed prompts",
        "dynamic_ncols": True,
        "postfix": "est. speed input: 0.00 toks/s, output: 0.00 toks/s",
    }
    if callable(use_tqdm):
        return use_tqdm(**options)
    from tqdm import tqdm  # type: ignore[import-untyped]

    return tqdm(**options, disable=None)
