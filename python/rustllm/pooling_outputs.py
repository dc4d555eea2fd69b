"""What a pooling request returns, by vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

__all__ = [
    "ClassificationOutput",
    "ClassificationRequestOutput",
    "EmbeddingOutput",
    "EmbeddingRequestOutput",
    "PoolingOutput",
    "PoolingRequestOutput",
    "ScoringOutput",
    "ScoringRequestOutput",
]


@dataclass(slots=True)
class PoolingOutput:
    """What was made of a prompt."""

    data: npt.NDArray[np.float32]
    """`[dim]`, or `[tokens, dim]` for a task that has a row for each token."""


@dataclass(slots=True)
class EmbeddingOutput:
    """A prompt's vector."""

    embedding: list[float]

    @staticmethod
    def from_base(pooling_output: PoolingOutput) -> EmbeddingOutput:
        """The same numbers as a list."""
        return EmbeddingOutput(pooling_output.data.tolist())

    @property
    def hidden_size(self) -> int:
        """Elements of the vector."""
        return len(self.embedding)


@dataclass(slots=True)
class ClassificationOutput:
    """A prompt's probability of each class, or its score where no activation was wanted."""

    probs: list[float]

    @staticmethod
    def from_base(pooling_output: PoolingOutput) -> ClassificationOutput:
        """The same numbers as a list."""
        return ClassificationOutput(pooling_output.data.tolist())

    @property
    def num_classes(self) -> int:
        """Classes the model knows."""
        return len(self.probs)


@dataclass(slots=True)
class ScoringOutput:
    """How well two texts go together."""

    score: float

    @staticmethod
    def from_base(pooling_output: PoolingOutput) -> ScoringOutput:
        """The one score of a model with one label."""
        return ScoringOutput(float(pooling_output.data.item()))


O = TypeVar("O")  # noqa: E741


@dataclass(slots=True)
class PoolingRequestOutput(Generic[O]):
    """The result of a pooling request."""

    request_id: str
    outputs: O
    prompt_token_ids: list[int]
    num_cached_tokens: int = 0
    """Prompt tokens found in the prefix cache."""
    finished: bool = True
    error: str | None = None
    """What went wrong, if something did; then `outputs` holds nothing."""


class EmbeddingRequestOutput(PoolingRequestOutput[EmbeddingOutput]):
    """The result of `LLM.embed`."""

    @staticmethod
    def from_base(request_output: PoolingRequestOutput[PoolingOutput]) -> EmbeddingRequestOutput:
        """The same result, its numbers as an embedding."""
        outputs = EmbeddingOutput.from_base(request_output.outputs)
        return EmbeddingRequestOutput(*_head(request_output, outputs))


class ClassificationRequestOutput(PoolingRequestOutput[ClassificationOutput]):
    """The result of `LLM.classify`."""

    @staticmethod
    def from_base(
        request_output: PoolingRequestOutput[PoolingOutput],
    ) -> ClassificationRequestOutput:
        """The same result, its numbers as probabilities."""
        outputs = ClassificationOutput.from_base(request_output.outputs)
        return ClassificationRequestOutput(*_head(request_output, outputs))


class ScoringRequestOutput(PoolingRequestOutput[ScoringOutput]):
    """The result of `LLM.score`."""

    @staticmethod
    def from_base(request_output: PoolingRequestOutput[PoolingOutput]) -> ScoringRequestOutput:
        """The same result, its one number as a score."""
        outputs = ScoringOutput.from_base(request_output.outputs)
        return ScoringRequestOutput(*_head(request_output, outputs))


def _head(base: PoolingRequestOutput[PoolingOutput], outputs: O) -> tuple[str, O, list[int], int]:
    return base.request_id, outputs, base.prompt_token_ids, base.num_cached_tokens
