"""`text-classification`: labels of texts, or of pairs of texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextInput, TextPair
from rustllm.errors import ValidationError
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.scores import sigmoid, softmax
from rustllm.pipelines.truncation import Cut

__all__ = ["TextClassificationOptions", "TextClassificationPipeline"]

_FUNCTIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda scores: scores,
    "sigmoid": sigmoid,
    "softmax": softmax,
}


@dataclass(frozen=True)
class TextClassificationOptions(Cut):
    """Options of a call.

    Args:
        top_k: How many labels, best first; `None` for all; `best` for the best one, not in a list.
        function_to_apply: `softmax`, `sigmoid` or `none`; by default what the model was trained
            for: none for a regression, sigmoid for one label or several at once, else softmax.
        truncation: Cut texts that are too long, which are else refused; or, for pairs, the name of
            a strategy: `longest_first`, `only_first`, `only_second`.
        max_length: Where to cut, in tokens; by default at the longest the model reads.
    """

    top_k: int | Literal["best"] | None = "best"
    function_to_apply: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        function = self.function_to_apply
        if function is not None and str(function).lower() not in _FUNCTIONS:
            message = f"function_to_apply must be one of {', '.join(_FUNCTIONS)}, got {function!r}"
            raise ValidationError(message, parameter="function_to_apply", value=function)
        if isinstance(self.top_k, int) and self.top_k < 1:
            message = f"top_k must be at least 1, got {self.top_k}"
            raise ValidationError(message, parameter="top_k", value=self.top_k)


class TextClassificationPipeline(PoolingPipeline):
    """Labels texts.

    An input is a text, a `TextPair`, or `{"text": ..., "text_pair": ...}`. The result is
    `{"label", "score"}`, or a list of those where `top_k` is given. A single text without `top_k`
    in the call gives a list of one.
    """

    task = "text-classification"
    options_type = TextClassificationOptions

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Labels one text, a list, or a generator of them; see the class."""
        results = super().__call__(inputs, **options)
        return [results] if isinstance(inputs, str) and "top_k" not in options else results

    def _encode(
        self, items: Sequence[Any], options: TextClassificationOptions
    ) -> list[list[Encoding]]:
        texts = [_read_input(item) for item in items]
        cut = options.arguments(self.model.max_length)
        return [[encoding] for encoding in self.model.encoder.encode(texts, **cut)]

    def _pooling_params(self, options: TextClassificationOptions) -> PoolingParams:
        return PoolingParams("classify", use_activation=False)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: TextClassificationOptions,
    ) -> Any:
        function = options.function_to_apply or self._default_function()
        scores = _FUNCTIONS[function.lower()](outputs[0]).tolist()
        labels = [
            {"label": label, "score": score}
            for label, score in zip(self.model.id2label, scores, strict=True)
        ]
        ordered = sorted(labels, key=lambda item: item["score"], reverse=True)
        return ordered[0] if options.top_k == "best" else ordered[: options.top_k]

    def _default_function(self) -> str:
        problem = self.model.config.get("problem_type")
        if problem == "regression":
            return "none"
        is_single = problem != "multi_label_classification" and len(self.model.id2label) > 1
        return "softmax" if is_single else "sigmoid"


def _read_input(item: Any) -> TextInput:
    if isinstance(item, Mapping):
        unknown = item.keys() - {"text", "text_pair"}
        if unknown or "text" not in item:
            message = f"an input must have text and may have text_pair, got {sorted(item)}"
            raise ValidationError(message, parameter="inputs", value=item)
        pair = item.get("text_pair")
        return item["text"] if pair is None else TextPair(item["text"], pair)
    if isinstance(item, list):
        if len(item) == 1 and isinstance(item[0], list) and len(item[0]) == 2:
            return TextPair(*item[0])
        message = "a pair of texts must be given as {'text': ..., 'text_pair': ...}"
        raise ValidationError(message, parameter="inputs", value=item)
    text: TextInput = item
    return text
