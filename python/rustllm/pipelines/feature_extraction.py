"""`feature-extraction`: the hidden states of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.truncation import Cut

__all__ = ["FeatureExtractionOptions", "FeatureExtractionPipeline"]


@dataclass(frozen=True)
class FeatureExtractionOptions(Cut):
    """Options of a call.

    Args:
        return_tensors: Return a NumPy array, not lists.
        truncation: Cut texts that are too long, which are else refused.
        max_length: Where to cut, in tokens; by default at the longest the model reads.
    """

    return_tensors: bool = False


class FeatureExtractionPipeline(PoolingPipeline):
    """The last hidden state of each token of a text.

    The result is of the shape `[1, tokens, hidden size]`, special tokens included. For one vector a
    text, use `LLM.embed`.
    """

    task = "feature-extraction"
    options_type = FeatureExtractionOptions
    # Any model will do: a generator is read instead, and a head is left out.
    engine_defaults: ClassVar[Mapping[str, Any]] = {"runner": "pooling", "convert": "embed"}

    def _encode(
        self, items: Sequence[Any], options: FeatureExtractionOptions
    ) -> list[list[Encoding]]:
        cut = options.arguments(self.model.max_length)
        return [[encoding] for encoding in self.model.encoder.encode(items, **cut)]

    def _pooling_params(self, options: FeatureExtractionOptions) -> PoolingParams:
        return PoolingParams("token_embed", normalize=False)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: FeatureExtractionOptions,
    ) -> Any:
        features = outputs[0][None]
        return features if options.return_tensors else features.tolist()
