"""Scores of pairs of texts: by a cross-encoder, or by the cosine of two embeddings.

cross-encoder (one label)     one request a pair:  [CLS] query [SEP] document [SEP]  -> score
embedding model               one request a text:  query, document -> vectors -> their cosine
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from rustllm.encoding import TextPair
from rustllm.errors import ValidationError
from rustllm.inputs import ParsedPrompt
from rustllm.model_loader import LoadedModel
from rustllm.pooling_outputs import (
    PoolingOutput,
    PoolingRequestOutput,
    ScoringOutput,
    ScoringRequestOutput,
)
from rustllm.pooling_params import PoolingParams
from rustllm.pooling_processor import PoolingProcessor, PoolingRequest

__all__ = ["ScoreInputs", "Scorer", "pair_texts"]

ScoreInputs: TypeAlias = str | Sequence[str]

Pooled: TypeAlias = PoolingRequestOutput[PoolingOutput]


def pair_texts(data_1: ScoreInputs, data_2: ScoreInputs) -> list[TextPair]:
    """The pairs that two arguments stand for: 1 to 1, 1 to N, or N to N.

    Raises:
        ValidationError: no texts, or lists of different lengths.
    """
    first, second = _texts("data_1", data_1), _texts("data_2", data_2)
    for name, texts in (("text", first), ("text_pair", second)):
        if not texts:
            message = f"At least one {name} element must be given"
            raise ValidationError(message, parameter=name, value=texts)
    if len(first) not in (1, len(second)):
        message = (
            "Input lengths must be either 1:1, 1:N or N:N, "
            f"got {len(first)} and {len(second)} texts"
        )
        raise ValidationError(message, parameter="data_1", value=len(first))
    if len(first) == 1:
        first = first * len(second)
    return [TextPair(*texts) for texts in zip(first, second, strict=True)]


def _texts(name: str, data: Any) -> list[str]:
    texts = [data] if isinstance(data, str) else data
    if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
        message = f"{name} must be a string or a list of strings"
        raise ValidationError(message, parameter=name, value=data)
    return list(texts)


class Scorer:
    """What a model is asked, and what its answers mean as scores.

    Args:
        model: The model.
        processor: The model's way in.

    Raises:
        ValidationError: a model that has no scores.
    """

    def __init__(self, model: LoadedModel, processor: PoolingProcessor) -> None:
        self._processor = processor
        info = model.engine.model_info
        if not model.is_pooling:
            processor.check_task("embed", method="LLM.score()")
        self.is_cross_encoder = "classify" in info.supported_tasks
        if self.is_cross_encoder and info.num_labels != 1:
            message = f"Scoring API is only enabled for num_labels == 1, got {info.num_labels}."
            raise ValidationError(message, parameter="task", value="score")
        if not self.is_cross_encoder and "embed" not in info.supported_tasks:
            tasks = ", ".join(info.supported_tasks)
            message = f"This model does not support the Scoring API; its tasks are {tasks}"
            raise ValidationError(message, parameter="task", value="score")

    def requests(
        self,
        pairs: Sequence[TextPair],
        params: PoolingParams,
        *,
        tokenization_kwargs: Mapping[str, Any] | None = None,
    ) -> list[PoolingRequest]:
        """The requests whose results `scores` takes: for embeddings one for each different text.

        Raises:
            ValidationError: a text or a parameter that cannot be used.
        """
        kwargs = tokenization_kwargs
        if self.is_cross_encoder:
            return self._processor.process_pairs(pairs, params, tokenization_kwargs=kwargs)
        prompts = [ParsedPrompt(text, None) for text in _places(pairs)]
        prefix = self._processor.templates.prefix()
        return self._processor.process(
            prompts, [params] * len(prompts), "embed", tokenization_kwargs=kwargs, prefix=prefix
        )

    def scores(
        self, pairs: Sequence[TextPair], results: Sequence[Pooled]
    ) -> list[ScoringRequestOutput]:
        """The score of each pair, from the results of `requests`."""
        if self.is_cross_encoder:
            return [ScoringRequestOutput.from_base(result) for result in results]
        places = _places(pairs)
        return [
            _cosine(results[places[pair.text]], results[places[pair.text_pair]]) for pair in pairs
        ]


def _places(pairs: Sequence[TextPair]) -> dict[str, int]:
    """Where each different text of the pairs stands, in order of appearance."""
    places: dict[str, int] = {}
    for pair in pairs:
        for text in pair:
            places.setdefault(text, len(places))
    return places


def _cosine(first: Pooled, second: Pooled) -> ScoringRequestOutput:
    a, b = (result.outputs.data.astype(np.float64) for result in (first, second))
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    score = float(a @ b) / lengths if lengths else 0.0
    return ScoringRequestOutput(
        f"{first.request_id}_{second.request_id}",
        ScoringOutput(score),
        first.prompt_token_ids + second.prompt_token_ids,
        first.num_cached_tokens + second.num_cached_tokens,
    )
