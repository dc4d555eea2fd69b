"""What a request wants made of its prompt where nothing is generated: vLLM's `PoolingParams`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from rustllm._core import PoolingParams as EnginePoolingParams
from rustllm.errors import ValidationError

__all__ = ["POOLING_TASKS", "PoolingParams"]

POOLING_TASKS: Final = ("embed", "classify", "token_embed", "token_classify")
"""What `PoolingParams.task` may be."""

_RENAMED: Final = {
    "score": "'classify'",
    "encode": "'token_embed' or 'token_classify'",
    "reward": "'classify' or 'token_classify'",
}
"""Tasks that vLLM has renamed."""

_UNSUPPORTED: Final = {
    "step_tag_id": "process reward models are not supported",
    "returned_token_ids": "process reward models are not supported",
    "late_chunking_params": "documents are embedded whole",
    "extra_kwargs": "there are no poolers but the model's own",
}


@dataclass
class PoolingParams:
    """Parameters of a pooling request. `None` takes what the model was made for.

    Args:
        use_activation: Whether scores become probabilities, and embeddings get length 1.
        dimensions: Leading elements of an embedding to keep, for models trained for it.
        step_tag_id: Not supported.
        returned_token_ids: Not supported.
        task: `embed`, `classify`, `token_embed` or `token_classify`. The methods of `LLM` and the
            routes of the server set it.
        late_chunking_params: Not supported.
        extra_kwargs: Not supported.
        normalize: The older name of `use_activation`, for embeddings.

    Raises:
        ValidationError: an unknown task, or something that is not supported.
    """

    use_activation: bool | None = None
    dimensions: int | None = None
    step_tag_id: int | None = None
    returned_token_ids: list[int] | None = None
    task: str | None = None
    late_chunking_params: Any = None
    extra_kwargs: dict[str, Any] | None = None
    normalize: bool | None = None

    def __post_init__(self) -> None:
        for name, reason in _UNSUPPORTED.items():
            value = getattr(self, name)
            if value is not None:
                message = f"{name} is not supported: {reason}"
                raise ValidationError(message, parameter=name, value=value)
        for name in ("use_activation", "normalize"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, bool):
                message = f"{name} must be True, False or None, got {value!r}"
                raise ValidationError(message, parameter=name, value=value)
        if None not in (self.use_activation, self.normalize):
            message = "normalize is the older name of use_activation: give one of them"
            raise ValidationError(message, parameter="normalize", value=self.normalize)
        size = self.dimensions
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            message = f"dimensions must be at least 1, got {size!r}"
            raise ValidationError(message, parameter="dimensions", value=size)
        if self.task is not None:
            check_pooling_task(self.task)

    def clone(self) -> PoolingParams:
        """A copy."""
        return replace(self)

    def for_engine(self, task: str) -> EnginePoolingParams:
        """These parameters as the engine takes them.

        Args:
            task: What is to be done, whatever `self.task` leaves open.

        Raises:
            ValidationError: `self.task` says something else, or a parameter is not the task's.
        """
        if self.task not in (None, task):
            message = f"You cannot overwrite pooling_params.task={self.task!r} with {task!r}!"
            raise ValidationError(message, parameter="task", value=self.task)
        is_embedding = task in ("embed", "token_embed")
        if self.normalize is not None and not is_embedding:
            message = f"normalize is for embeddings, the task is {task!r}: use use_activation"
            raise ValidationError(message, parameter="normalize", value=self.normalize)
        activation = self.normalize if self.use_activation is None else self.use_activation
        return EnginePoolingParams(
            task,
            use_activation=None if is_embedding else activation,
            normalize=activation if is_embedding else None,
            dimensions=self.dimensions,
        )


def check_pooling_task(task: Any) -> str:
    """Returns a task's name if it is one.

    Raises:
        ValidationError: it is none.
    """
    if task in POOLING_TASKS:
        return str(task)
    known = ", ".join(POOLING_TASKS)
    message = f"task must be one of {known}, got {task!r}"
    if task in _RENAMED:
        message = f"Unsupported task: {task!r}; it is called {_RENAMED[task]} now"
    raise ValidationError(message, parameter="task", value=task)
