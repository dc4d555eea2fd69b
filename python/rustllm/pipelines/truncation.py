"""The options `truncation` and `max_length` of tasks that refuse long texts unless told to cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from rustllm.errors import ValidationError

__all__ = ["Cut"]

_STRATEGIES: Final = ("longest_first", "only_first", "only_second", "do_not_truncate")


@dataclass(frozen=True)
class Cut:
    """Whether and where to cut texts.

    Args:
        truncation: Cut texts that are too long, which are else refused; or the name of a strategy.
        max_length: Where to cut, in tokens; by default at the longest the model reads.
    """

    truncation: bool | str | None = None
    max_length: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.truncation, str) and self.truncation not in _STRATEGIES:
            strategies = ", ".join(_STRATEGIES)
            message = f"truncation must be True, False or one of {strategies}"
            raise ValidationError(message, parameter="truncation", value=self.truncation)

    def arguments(self, longest: int) -> dict[str, Any]:
        """Arguments for `TextEncoder.encode`, for a model that reads `longest` tokens."""
        if self.truncation in (None, False, "do_not_truncate"):
            return {}
        strategy = "longest_first" if self.truncation is True else self.truncation
        length = longest if self.max_length is None else self.max_length
        return {"truncation": strategy, "max_length": length}
