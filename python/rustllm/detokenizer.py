"""Text of a completion as its tokens arrive, up to the stop string that ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from rustllm.sampling_params import SamplingParams
from rustllm.token_text import text_stream
from rustllm.tokenizer import Tokenizer

__all__ = ["IncrementalDetokenizer", "StopMatch"]


class StopMatch(NamedTuple):
    """Where a stop string ended a completion."""

    stop: str
    num_tokens: int
    """Tokens of the completion up to the one that completed the stop string."""


class IncrementalDetokenizer:
    """The text of one completion.

    Text is built when something needs it: at every token while stop strings have to be found, else
    when it is read. A stop string is matched where it first ends, whatever tokens it came in, so
    that the text does not depend on how tokens were cut or batched. While a completion runs, the
    end of its text that could become part of a stop string is held back:

        shown ........ held (longest stop - 1) | next token
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt_token_ids: Sequence[int], params: SamplingParams
    ) -> None:
        self._stream = text_stream(
            tokenizer,
            prompt_token_ids,
            skip_special_tokens=params.skip_special_tokens,
            spaces_between_special_tokens=params.spaces_between_special_tokens,
        )
        self._stops = params.stop_strings
        self._include_stop = params.include_stop_str_in_output
        self._min_tokens = params.min_tokens
        longest = max((len(stop) for stop in self._stops), default=1)
        self._num_held = 0 if self._include_stop else longest - 1
        self._overlap = longest - 1
        self._pieces: list[str] = []
        self._tail = ""
        """The last characters that a stop string may begin in."""
        self._pending: list[int] = []
        self._num_tokens = 0
        self._length = 0
        self._num_read = 0
        self._ended = False

    def update(
        self, token_ids: Sequence[int], *, stop_token_last: bool = False
    ) -> StopMatch | None:
        """Adds tokens.

        Args:
            token_ids: The next tokens.
            stop_token_last: Whether the last of them is the stop token that ended the completion:
                it has no text, unless `include_stop_str_in_output` asks for it.

        Returns:
            The stop string the tokens completed, if one did; tokens behind it are not part of the
            completion.
        """
        if stop_token_last and not self._include_stop:
            token_ids = token_ids[:-1]
        if not self._stops:
            self._pending.extend(token_ids)
            return None
        for token_id in token_ids:
            self._num_tokens += 1
            match = self._push(token_id)
            if match is not None:
                return StopMatch(match, self._num_tokens)
        return None

    def end(self) -> None:
        """Says that no more tokens come: nothing is held back any more."""
        if not self._ended:
            self._decode_pending()
            self._append(self._stream.flush())
            self._ended = True

    @property
    def text(self) -> str:
        """All text there is, less what is held back."""
        self._decode_pending()
        self._pieces = ["".join(self._pieces)]
        return self._pieces[0][: self._shown()]

    def take_delta(self) -> str:
        """The text that has come since the last call."""
        begin = self._num_read
        self._decode_pending()
        self._num_read = max(begin, self._shown())
        return self._slice(begin, self._num_read)

    def _shown(self) -> int:
        return self._length if self._ended else max(0, self._length - self._num_held)

    def _push(self, token_id: int) -> str | None:
        """Adds one token's text; on a stop string cuts the text there and returns the string."""
        new = self._stream.push(token_id)
        self._append(new)
        window = self._tail + new
        self._tail = window[-self._overlap :] if self._overlap else ""
        if not new or self._num_tokens <= self._min_tokens:
            return None
        found = _first_end(window, self._stops, len(window) - len(new))
        if found is None:
            return None
        end, stop = found
        excess = len(window) - end if self._include_stop else len(window) - end + len(stop)
        text = "".join(self._pieces)
        self._pieces = [text[: len(text) - excess]]
        self._length -= excess
        self._ended = True
        return stop

    def _append(self, text: str) -> None:
        if text:
            self._pieces.append(text)
            self._length += len(text)

    def _decode_pending(self) -> None:
        if self._pending:
            self._append("".join(map(self._stream.push, self._pending)))
            self._pending.clear()

    def _slice(self, begin: int, end: int) -> str:
        """Characters `begin` to `end`, found from the end: streams ask for the last ones."""
        collected: list[str] = []
        position = self._length
        for piece in reversed(self._pieces):
            if position <= begin:
                break
            position -= len(piece)
            collected.append(piece)
        text = "".join(reversed(collected))
        return text[begin - position : end - position]


def _first_end(text: str, stops: Sequence[str], old: int) -> tuple[int, str] | None:
    """Where the first stop string ends behind position `old`; of two that end there, the longer."""
    best: tuple[int, int, str] | None = None
    for stop in stops:
        begin = text.find(stop, max(0, old - len(stop) + 1))
        if begin >= 0:
            candidate = (begin + len(stop), begin, stop)
            best = candidate if best is None else min(best, candidate)
    return None if best is None else (best[0], best[2])
