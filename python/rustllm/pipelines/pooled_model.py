"""A model whose prompts are read, with its tokenizer and the names of its labels."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextEncoder, num_token_types
from rustllm.engine_args import EngineArgs
from rustllm.errors import RustllmError, ValidationError
from rustllm.model_loader import load_model

__all__ = ["Array", "PooledModel"]

Array: TypeAlias = npt.NDArray[np.float32]

_STEP_SECONDS: Final = 0.2
"""Longest wait in a step, after which an interrupt gets its turn."""

_PIPELINES_OF: Final = {
    "classify": ("text-classification", "zero-shot-classification", "text-ranking"),
    "fill_mask": ("fill-mask",),
    "generate": ("text-generation", "summarization", "translation"),
    "token_classify": ("token-classification",),
    "token_embed": ("feature-extraction",),
}
"""The pipelines that each task of an engine is good for."""


class PooledModel:
    """A running engine and what belongs to its model.

    Args:
        args: What to start the engine with.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an engine argument that is refused.
    """

    def __init__(self, args: EngineArgs) -> None:
        self._loaded = load_model(args)
        self._engine = self._loaded.engine
        self._ids = itertools.count()
        self._running = threading.Lock()
        self.config: dict[str, Any] = self._loaded.config()
        """What `config.json` says."""
        self.info = self._engine.model_info
        self.tokenizer = self._loaded.require_tokenizer()
        self.encoder = TextEncoder(self.tokenizer, num_token_types=num_token_types(self.config))
        names = self._loaded.labels
        self.id2label = [names.get(i, f"LABEL_{i}") for i in range(self.info.num_labels or 0)]
        """The name of each label."""

    @property
    def max_length(self) -> int:
        """Longest prompt in tokens, by what the tokenizer and the engine say."""
        stated = self.tokenizer.config.get("model_max_length")
        limit = self._loaded.max_model_len
        return min(limit, int(stated)) if isinstance(stated, (int, float)) and stated > 0 else limit

    @property
    def pipelines(self) -> list[str]:
        """The pipelines that this model is good for."""
        if self.info.architecture.endswith("ForQuestionAnswering"):
            return ["question-answering"]
        return [name for task in self.info.supported_tasks for name in _PIPELINES_OF.get(task, ())]

    def require(self, task: str) -> None:
        """Checks that the model can do a pipeline's task.

        Raises:
            ValidationError: it cannot; the message says what it can do.
        """
        if task not in self.pipelines:
            able = ", ".join(self.pipelines) or "no pipeline"
            message = f"{self.info.architecture} cannot do {task}; it can do {able}"
            raise ValidationError(message, parameter="task", value=task)

    def pool(self, prompts: Sequence[Encoding], params: PoolingParams) -> list[Array]:
        """Hands all prompts to the engine and waits for what it makes of them.

        Raises:
            ValidationError: a prompt that is too long; then none was started.
            RustllmError: a prompt whose result is not finite.
        """
        ids = [str(next(self._ids)) for _ in prompts]
        done: dict[str, Array] = {}
        with self._running:
            self._engine.add_pooling_requests(
                [
                    (request_id, prompt.ids, prompt.token_type_ids, params, 0, None)
                    for request_id, prompt in zip(ids, prompts, strict=True)
                ]
            )
            try:
                while len(done) < len(ids):
                    for output in self._engine.step(_STEP_SECONDS):
                        if output.pooled is None:
                            raise RustllmError(output.error or f"ended by {output.finish_reason}")
                        done[output.request_id] = output.pooled
            except BaseException:
                self._engine.abort([request_id for request_id in ids if request_id not in done])
                self._drain()
                raise
        return [done[request_id] for request_id in ids]

    def _drain(self) -> None:
        """Throws away what is left of requests that nobody waits for."""
        while self._engine.has_unfinished():
            self._engine.step(_STEP_SECONDS)
