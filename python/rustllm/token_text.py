"""Tokens to text, one at a time: what a stream can show without ever splitting a character.

A token is some bytes, and a character may take several tokens. Byte-level vocabularies (GPT-2,
Llama 3, Qwen) say which bytes, so those tokenizers get a UTF-8 decoder that keeps the bytes of an
unfinished character. Other decoders depend on a token's neighbours (a leading space, a
byte-fallback run), so for those a short window of tokens is decoded with and without the new one:

    ids   ... t5 t6 | t7 t8 | t9
              window  held    new      text(window + held + new) - text(window) is what is new,
                                       unless it ends in an unfinished character
"""

from __future__ import annotations

import codecs
import functools
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from rustllm.tokenizer import Tokenizer

__all__ = ["TextStream", "byte_level_bytes", "text_stream"]

_REPLACEMENT: Final = "\ufffd"

_MAX_HELD: Final = 4
"""A character has at most four bytes, so more tokens than this cannot be waiting for its end."""

_PROMPT_WINDOW: Final = 6
"""Prompt tokens the first generated one is decoded behind."""


class TextStream(Protocol):
    """Turns tokens into text as they come."""

    def push(self, token_id: int) -> str:
        """Takes the next token and returns the text that has become certain."""

    def flush(self) -> str:
        """Text still held when no more tokens come, less the bytes of an unfinished character."""


def text_stream(
    tokenizer: Tokenizer,
    prompt_token_ids: Sequence[int],
    *,
    skip_special_tokens: bool,
    spaces_between_special_tokens: bool,
) -> TextStream:
    """The stream that fits the tokenizer."""
    if tokenizer.is_byte_level:
        return _ByteStream(tokenizer, skip_special_tokens)
    return _WindowStream(
        tokenizer,
        prompt_token_ids,
        skip_special_tokens,
        skip_special_tokens or spaces_between_special_tokens,
    )


class _ByteStream:
    """For vocabularies of bytes: each token's bytes are known, whatever its neighbours."""

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._decode = codecs.getincrementaldecoder("utf-8")("replace").decode

    def push(self, token_id: int) -> str:
        return "" if token_id in self._skipped else self._decode(self._token_bytes(token_id))

    def flush(self) -> str:
        return ""


class _WindowStream:
    """For every other decoder: text is the difference between two decodings of a few tokens."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        prompt_token_ids: Sequence[int],
        skip_special_tokens: bool,
        space_special_tokens: bool,
    ) -> None:
        self._decode = functools.partial(tokenizer.decode, skip_special_tokens=skip_special_tokens)
        self._skipped = tokenizer.special_token_ids if skip_special_tokens else frozenset()
        self._id_to_token = tokenizer.id_to_token
        shown = (token_id for token_id in reversed(prompt_token_ids) if self._shows(token_id))
        self._ids = list(itertools.islice(shown, _PROMPT_WINDOW))[::-1]
        self._window = len(self._ids)
        self._window_text = self._decode(self._ids)
        self._glued = {} if space_special_tokens else tokenizer.added_tokens
        self._after_glued = False

    def push(self, token_id: int) -> str:
        if not self._shows(token_id):
            return ""
        self._ids.append(token_id)
        text = self._decode(self._ids)
        held = len(self._ids) - self._window
        if text.endswith(_REPLACEMENT) and held <= _MAX_HELD:
            return ""
        new = text[len(self._window_text) :]
        if token_id in self._glued and self._after_glued and held == 1:
            new = self._glued[token_id]
        self._after_glued = token_id in self._glued
        del self._ids[: self._window]
        self._window = len(self._ids)
        self._window_text = self._decode(self._ids)
        return new

    def flush(self) -> str:
        text = self._decode(self._ids)
        return text[len(self._window_text) :].rstrip(_REPLACEMENT)

    def _shows(self, token_id: int) -> bool:
        """Whether the token is part of what decoders see: the others must not become a window."""
        return token_id not in self._skipped and self._id_to_token(token_id) is not None


def byte_level_bytes(token: str) -> bytes:
    """The bytes a byte-level vocabulary's token stands for; other text stands for itself."""
    table = _byte_of_char()
    try:
        return bytes([table[char] for char in token])
    except KeyError:
        return token.encode()


@functools.cache
def _byte_of_char() -> dict[str, int]:
    """Each byte is written as a printable character: itself, or one from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return table
