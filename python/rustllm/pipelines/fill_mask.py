"""`fill-mask`: the likeliest tokens at the mask tokens of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding
from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.logger import warning_once
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.scores import softmax
from rustllm.pipelines.truncation import Cut

__all__ = ["FillMaskOptions", "FillMaskPipeline"]


@dataclass(frozen=True)
class FillMaskOptions(Cut):
    """Options of a call.

    Args:
        top_k: How many tokens for each mask, likeliest first.
        targets: Tokens to choose among; of text that is more than a token, the first one is taken.
            Their scores are still shares of the whole vocabulary.
        truncation: Cut texts that are too long, which are else refused.
        max_length: Where to cut, in tokens; by default at the longest the model reads.
    """

    top_k: int = 5
    targets: str | Sequence[str] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top_k < 1:
            message = f"top_k must be at least 1, got {self.top_k}"
            raise ValidationError(message, parameter="top_k", value=self.top_k)


class FillMaskPipeline(PoolingPipeline):
    """Guesses the tokens that masks stand for.

    An input is a text with the model's mask token in it. The result is a list of
    `{"score", "token", "token_str", "sequence"}`; for several masks a list of such lists, one for
    each mask, filled on its own. A list of one text gives the result of that text.
    """

    task = "fill-mask"
    options_type = FillMaskOptions

    def _load(self, engine_args: EngineArgs) -> None:
        super()._load(engine_args)
        mask_token_id = self.model.tokenizer.mask_token_id
        if mask_token_id is None:
            message = "the model's tokenizer names no mask_token, which fill-mask needs"
            raise ValidationError(message, parameter="task", value=self.task)
        self._mask_token_id = mask_token_id

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Fills the masks of one text, a list, or a generator of them; see the class."""
        results = super().__call__(inputs, **options)
        return results[0] if isinstance(inputs, list) and len(inputs) == 1 else results

    def _encode(self, items: Sequence[Any], options: FillMaskOptions) -> list[list[Encoding]]:
        cut = options.arguments(self.model.max_length)
        encodings = self.model.encoder.encode(items, **cut)
        for item, encoding in zip(items, encodings, strict=True):
            if self._mask_token_id not in encoding.ids:
                mask = self.model.tokenizer.special_tokens["mask_token"]
                message = f"a text has no mask token ({mask}): {item!r}"
                raise ValidationError(message, parameter="inputs", value=item)
        return [[encoding] for encoding in encodings]

    def _pooling_params(self, options: FillMaskOptions) -> PoolingParams:
        return PoolingParams("fill_mask", use_activation=False, mask_token_id=self._mask_token_id)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: FillMaskOptions,
    ) -> Any:
        ids = prompts[0].ids
        places = [place for place, token in enumerate(ids) if token == self._mask_token_id]
        candidates = self._candidates(options.targets)
        filled = [
            [
                self._filled(ids, place, token, score, is_single=len(places) == 1)
                for token, score in _best(shares, candidates, options.top_k)
            ]
            for place, shares in zip(places, softmax(outputs[0]), strict=True)
        ]
        return filled[0] if len(places) == 1 else filled

    def _filled(
        self, ids: list[int], place: int, token: int, score: float, *, is_single: bool
    ) -> dict[str, Any]:
        tokenizer = self.model.tokenizer
        whole = [*ids[:place], token, *ids[place + 1 :]]
        readable = [item for item in whole if item != tokenizer.pad_token_id]
        return {
            "score": score,
            "token": token,
            "token_str": tokenizer.decode([token]),
            # Other masks are special tokens too, and have to stay visible.
            "sequence": tokenizer.decode(readable, skip_special_tokens=is_single),
        }

    def _candidates(self, targets: str | Sequence[str] | None) -> list[int] | None:
        """The ids of the targets.

        Raises:
            ValidationError: no target is anything to the tokenizer.
        """
        if targets is None:
            return None
        found: dict[int, None] = {}
        for target in [targets] if isinstance(targets, str) else targets:
            token_id = self._target_id(target)
            if token_id is not None:
                found[token_id] = None
        if not found:
            message = "targets must hold at least one token of the model's vocabulary"
            raise ValidationError(message, parameter="targets", value=targets)
        return list(found)

    def _target_id(self, target: str) -> int | None:
        tokenizer = self.model.tokenizer
        known = tokenizer.convert_tokens_to_ids(target)
        if known is not None:
            return known
        ids = tokenizer.encode(target, add_special_tokens=False)
        if not ids:
            warning_once(f"the target {target!r} is no token of the model's vocabulary")
            return None
        first = tokenizer.id_to_token(ids[0])
        warning_once(f"the target {target!r} is no token of the vocabulary, taking {first!r}")
        return ids[0]


def _best(shares: Array, candidates: list[int] | None, top_k: int) -> list[tuple[int, float]]:
    """The likeliest tokens with their shares."""
    ids = np.arange(len(shares)) if candidates is None else np.array(candidates)
    order = np.argsort(-shares[ids], kind="stable")[:top_k]
    return [(int(ids[place]), float(shares[ids[place]])) for place in order]
