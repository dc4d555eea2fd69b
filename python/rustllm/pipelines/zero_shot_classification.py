"""`zero-shot-classification`: labels of the caller's own, by a model of natural language inference.

Each label becomes a hypothesis, "This example is politics."; the label's score is how surely the
model says that the text entails it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextPair
from rustllm.errors import ValidationError
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.scores import softmax

__all__ = ["ZeroShotClassificationOptions", "ZeroShotClassificationPipeline"]


@dataclass(frozen=True)
class ZeroShotClassificationOptions:
    """Options of a call.

    Args:
        candidate_labels: The labels: a list, or a text with commas between them.
        hypothesis_template: The sentence about a label; `{}` stands for it.
        multi_label: Whether several labels may be true: then each score is that of entailment
            against contradiction, else the scores of all labels add up to 1.
    """

    candidate_labels: Sequence[str] | str = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False

    def __post_init__(self) -> None:
        template = self.hypothesis_template
        try:
            fits = template.format("label") != template
        except (IndexError, KeyError, ValueError):
            fits = False
        if not fits:
            message = f"hypothesis_template must have a {{}} for the label, got {template!r}"
            raise ValidationError(message, parameter="hypothesis_template", value=template)

    @property
    def labels(self) -> list[str]:
        """The labels one by one.

        Raises:
            ValidationError: there is none.
        """
        given = self.candidate_labels
        names = (
            [name.strip() for name in given.split(",")] if isinstance(given, str) else list(given)
        )
        labels = [name for name in names if name]
        if not labels:
            message = "candidate_labels must hold at least one label"
            raise ValidationError(message, parameter="candidate_labels", value=given)
        return labels


class ZeroShotClassificationPipeline(PoolingPipeline):
    """Labels texts with labels given in the call.

    An input is a text. The result is `{"sequence", "labels", "scores"}`, best label first. Long
    texts are cut, hypotheses are not.
    """

    task = "zero-shot-classification"
    options_type = ZeroShotClassificationOptions

    def __call__(
        self, inputs: Any, candidate_labels: Sequence[str] | str | None = None, **options: Any
    ) -> Any:
        """Labels one text, a list, or a generator of them; see the class."""
        if candidate_labels is not None:
            options["candidate_labels"] = candidate_labels
        return super().__call__(inputs, **options)

    def _encode(
        self, items: Sequence[Any], options: ZeroShotClassificationOptions
    ) -> list[list[Encoding]]:
        hypotheses = [options.hypothesis_template.format(label) for label in options.labels]
        pairs = [TextPair(text, hypothesis) for text in items for hypothesis in hypotheses]
        encoded = self.model.encoder.encode(
            pairs, truncation="only_first", max_length=self.model.max_length
        )
        size = len(hypotheses)
        return [encoded[start : start + size] for start in range(0, len(encoded), size)]

    def _pooling_params(self, options: ZeroShotClassificationOptions) -> PoolingParams:
        return PoolingParams("classify", use_activation=False)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: ZeroShotClassificationOptions,
    ) -> dict[str, Any]:
        raw = np.stack(outputs)
        labels, entailment = options.labels, self._entailment_id()
        if options.multi_label or len(labels) == 1:
            contradiction = -1 if entailment == 0 else 0
            scores = softmax(raw[:, [contradiction, entailment]])[:, 1]
        else:
            scores = softmax(raw[:, entailment])
        order = scores.argsort()[::-1]
        return {
            "sequence": item,
            "labels": [labels[place] for place in order],
            "scores": scores[order].tolist(),
        }

    def _entailment_id(self) -> int:
        """The label that says "entailment"; the last where none does."""
        stated = self.model.config.get("label2id") or {}
        names = stated or {name: place for place, name in enumerate(self.model.id2label)}
        ids = [int(place) for name, place in names.items() if name.lower().startswith("entail")]
        return ids[0] if ids else -1
