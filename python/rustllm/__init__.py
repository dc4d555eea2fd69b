"""rustllm: a language-model inference engine. Rust does the work; this package is its face.

>>> from rustllm import LLM, SamplingParams
>>> llm = LLM()
>>> outputs = llm.generate("def fibonacci(n):", SamplingParams(temperature=0, max_tokens=32))

Names are imported when they are first used, so that `import rustllm` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rustllm._core import Engine, __version__
    from rustllm.async_engine import AsyncEngine
    from rustllm.engine_args import EngineArgs
    from rustllm.errors import EngineDeadError, ModelLoadError, RustllmError, ValidationError
    from rustllm.inputs import PromptType, TextPrompt, TokensPrompt
    from rustllm.llm import LLM
    from rustllm.llm_engine import LLMEngine
    from rustllm.outputs import CompletionOutput, Logprob, RequestOutput, RequestStateStats
    from rustllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = [
    "LLM",
    "AsyncEngine",
    "CompletionOutput",
    "Engine",
    "EngineArgs",
    "EngineDeadError",
    "LLMEngine",
    "Logprob",
    "ModelLoadError",
    "PromptType",
    "RequestOutput",
    "RequestOutputKind",
    "RequestStateStats",
    "RustllmError",
    "SamplingParams",
    "TextPrompt",
    "TokensPrompt",
    "ValidationError",
    "__version__",
]

_MODULES = {
    "LLM": "llm",
    "AsyncEngine": "async_engine",
    "CompletionOutput": "outputs",
    "Engine": "_core",
    "EngineArgs": "engine_args",
    "EngineDeadError": "errors",
    "LLMEngine": "llm_engine",
    "Logprob": "outputs",
    "ModelLoadError": "errors",
    "PromptType": "inputs",
    "RequestOutput": "outputs",
    "RequestOutputKind": "sampling_params",
    "RequestStateStats": "outputs",
    "RustllmError": "errors",
    "SamplingParams": "sampling_params",
    "TextPrompt": "inputs",
    "TokensPrompt": "inputs",
    "ValidationError": "errors",
    "__version__": "_core",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rustllm.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
