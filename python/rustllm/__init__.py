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
    from rustllm.pipelines import pipeline
    from rustllm.pooling_outputs import (
        ClassificationOutput,
        ClassificationRequestOutput,
        EmbeddingOutput,
        EmbeddingRequestOutput,
        PoolingOutput,
        PoolingRequestOutput,
        ScoringOutput,
        ScoringRequestOutput,
    )
    from rustllm.pooling_params import PoolingParams
    from rustllm.sampling_params import RequestOutputKind, SamplingParams

__all__ = [
    "LLM",
    "AsyncEngine",
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "CompletionOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "Engine",
    "EngineArgs",
    "EngineDeadError",
    "LLMEngine",
    "Logprob",
    "ModelLoadError",
    "PoolingOutput",
    "PoolingParams",
    "PoolingRequestOutput",
    "PromptType",
    "RequestOutput",
    "RequestOutputKind",
    "RequestStateStats",
    "RustllmError",
    "SamplingParams",
    "ScoringOutput",
    "ScoringRequestOutput",
    "TextPrompt",
    "TokensPrompt",
    "ValidationError",
    "__version__",
    "pipeline",
]

_MODULES = {
    "LLM": "llm",
    "AsyncEngine": "async_engine",
    "ClassificationOutput": "pooling_outputs",
    "ClassificationRequestOutput": "pooling_outputs",
    "CompletionOutput": "outputs",
    "EmbeddingOutput": "pooling_outputs",
    "EmbeddingRequestOutput": "pooling_outputs",
    "Engine": "_core",
    "EngineArgs": "engine_args",
    "EngineDeadError": "errors",
    "LLMEngine": "llm_engine",
    "Logprob": "outputs",
    "ModelLoadError": "errors",
    "PoolingOutput": "pooling_outputs",
    "PoolingParams": "pooling_params",
    "PoolingRequestOutput": "pooling_outputs",
    "PromptType": "inputs",
    "RequestOutput": "outputs",
    "RequestOutputKind": "sampling_params",
    "RequestStateStats": "outputs",
    "RustllmError": "errors",
    "SamplingParams": "sampling_params",
    "ScoringOutput": "pooling_outputs",
    "ScoringRequestOutput": "pooling_outputs",
    "TextPrompt": "inputs",
    "TokensPrompt": "inputs",
    "ValidationError": "errors",
    "__version__": "_core",
    "pipeline": "pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"rustllm.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
