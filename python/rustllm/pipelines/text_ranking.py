"""`text-ranking`: documents in the order of how well they fit a query, by a cross-encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextPair
from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array

__all__ = ["TextRankingOptions", "TextRankingPipeline"]


@dataclass(frozen=True)
class TextRankingOptions:
    """Options of a call.

    Args:
        top_k: How many documents, best first; `None` for all.
        return_documents: Whether results hold the documents.
        use_activation: Whether a score is made a probability; by default what the model was
            trained for.
    """

    top_k: int | None = None
    return_documents: bool = False
    use_activation: bool | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None and self.top_k < 1:
            message = f"top_k must be at least 1, got {self.top_k}"
            raise ValidationError(message, parameter="top_k", value=self.top_k)


class TextRankingPipeline(PoolingPipeline):
    """Ranks documents.

    Called with a query and a list of documents, or with `{"query": ..., "documents": [...]}`, a
    list or a generator of those. The result is a list of `{"corpus_id", "score"}`, best first:
    `corpus_id` is the document's place in the list. With `return_documents` there is a `text` too.
    What does not fit into the model is cut off the longer of query and document.
    """

    task = "text-ranking"
    options_type = TextRankingOptions

    def _load(self, engine_args: EngineArgs) -> None:
        super()._load(engine_args)
        if len(self.model.id2label) != 1:
            message = f"text-ranking needs a model of one label, got {len(self.model.id2label)}"
            raise ValidationError(message, parameter="task", value=self.task)

    def __call__(self, inputs: Any, documents: Sequence[str] | None = None, **options: Any) -> Any:
        """Ranks the documents of one query, a list, or a generator of them; see the class."""
        if documents is not None:
            inputs = {"query": inputs, "documents": documents}
        return super().__call__(inputs, **options)

    def _encode(self, items: Sequence[Any], options: TextRankingOptions) -> list[list[Encoding]]:
        inputs = [_read_input(item) for item in items]
        pairs = [TextPair(query, text) for query, documents in inputs for text in documents]
        encoded = iter(self.model.encoder.encode(pairs, max_length=self.model.max_length))
        return [[next(encoded) for _ in documents] for _, documents in inputs]

    def _pooling_params(self, options: TextRankingOptions) -> PoolingParams:
        return PoolingParams("classify", use_activation=options.use_activation)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: TextRankingOptions,
    ) -> list[dict[str, Any]]:
        _, documents = _read_input(item)
        ranked: list[dict[str, Any]] = [
            {"corpus_id": place, "score": float(output[0])} for place, output in enumerate(outputs)
        ]
        if options.return_documents:
            for entry, text in zip(ranked, documents, strict=True):
                entry["text"] = text
        ranked.sort(key=lambda entry: entry["score"], reverse=True)
        return ranked[: options.top_k]


def _read_input(item: Any) -> tuple[str, Sequence[str]]:
    if not isinstance(item, Mapping) or item.keys() != {"query", "documents"}:
        message = "an input must be a dict with a query and documents"
        raise ValidationError(message, parameter="inputs", value=item)
    if isinstance(item["documents"], str):
        message = "documents must be a list of texts, got a text"
        raise ValidationError(message, parameter="documents", value=item["documents"])
    return item["query"], item["documents"]
