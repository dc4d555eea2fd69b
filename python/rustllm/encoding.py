"""Texts and pairs of texts as a model that reads them whole gets them: ids, types, places.

A model that classifies or embeds needs more of a tokenizer than ids: which segment a token is of,
where in the text it stands, and, for texts longer than the model, which part of them to keep.

    pair  ("How old?", "She is 40")         [CLS] how old ? [SEP] she is 40 [SEP]
    token_type_ids                            0    0   0  0   0    1   1  1   1
    sequence_ids                              -    0   0  0   -    1   1  1   -
    special_tokens_mask                       1    0   0  0   1    0   0  0   1

    windows of 8, only_second, stride 1     [CLS] how old ? [SEP] she is [SEP]
                                            [CLS] how old ? [SEP] is 40 [SEP]
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias

from rustllm.errors import ValidationError
from rustllm.tokenizer import Tokenizer

if TYPE_CHECKING:
    import tokenizers

__all__ = [
    "Encoding",
    "TextEncoder",
    "TextInput",
    "TextPair",
    "Truncation",
    "Words",
    "num_token_types",
]

Truncation = Literal["longest_first", "only_first", "only_second"]
"""Which text loses tokens when a pair is too long; for a single text all but the last mean it."""

_TRUNCATIONS: Final = ("longest_first", "only_first", "only_second")

_TWO_TYPES: Final = frozenset({"bert", "electra", "nomic_bert"})
"""Model types with two segments where `config.json` does not say how many."""

_WITHOUT_TYPES: Final = frozenset({"distilbert", "modernbert", "mpnet"})
"""Model types without segments, whatever `config.json` says."""


class TextPair(NamedTuple):
    """Two texts that a model reads as one prompt: a query and a document, two sentences."""

    text: str
    text_pair: str


class Words(tuple[str, ...]):
    """A text that is cut into words already; offsets count from the beginning of each word."""

    __slots__ = ()


TextInput: TypeAlias = str | TextPair | Words


class Encoding:
    """One prompt's tokens. What is not asked for is not computed.

    Attributes:
        token_type_ids: The segment of each token; `None` for models without segments.
    """

    __slots__ = ("_backend", "token_type_ids")

    def __init__(self, backend: tokenizers.Encoding, *, with_types: bool) -> None:
        self._backend = backend
        self.token_type_ids: list[int] | None = backend.type_ids if with_types else None

    def __len__(self) -> int:
        return len(self._backend)

    @property
    def ids(self) -> list[int]:
        """Token ids."""
        return self._backend.ids

    @property
    def tokens(self) -> list[str]:
        """Each token as the vocabulary writes it."""
        return self._backend.tokens

    @property
    def special_tokens_mask(self) -> list[int]:
        """1 for tokens that the tokenizer put around the texts, 0 for those of the texts."""
        return self._backend.special_tokens_mask

    @property
    def offsets(self) -> list[tuple[int, int]]:
        """Where in its text each token begins and ends, in characters; (0, 0) for added ones."""
        return self._backend.offsets

    @property
    def word_ids(self) -> list[int | None]:
        """Which word of its text each token is of; `None` for added ones."""
        return self._backend.word_ids

    @property
    def sequence_ids(self) -> list[int | None]:
        """Which text of a pair each token is of, 0 or 1; `None` for added ones."""
        return self._backend.sequence_ids

    def word_to_chars(self, token: int) -> tuple[int, int] | None:
        """Where the word that a token is of begins and ends in its text; `None` without words."""
        word, sequence = self._backend.token_to_word(token), self._backend.token_to_sequence(token)
        if word is None or sequence is None:
            return None
        return self._backend.word_to_chars(word, sequence)


class TextEncoder:
    """Encodes texts and pairs with a model's tokenizer, in batches, on several threads.

    Args:
        tokenizer: The model's tokenizer.
        num_token_types: Segments the model knows; below 2 there are no `token_type_ids`.
    """

    def __init__(self, tokenizer: Tokenizer, *, num_token_types: int = 0) -> None:
        self.tokenizer = tokenizer
        names = tokenizer.config.get("model_input_names", ["token_type_ids"])
        self._with_types = num_token_types > 1 and "token_type_ids" in names

    def num_special_tokens(self, *, pair: bool = False) -> int:
        """Tokens that the tokenizer puts around a text or a pair."""
        return self.tokenizer.backend.num_special_tokens_to_add(pair)

    def encode(
        self,
        inputs: Sequence[TextInput],
        *,
        add_special_tokens: bool = True,
        truncation: Truncation = "longest_first",
        max_length: int | None = None,
        truncation_side: Literal["left", "right"] | None = None,
    ) -> list[Encoding]:
        """Encodes each input, cut to `max_length`.

        Args:
            inputs: Texts, pairs, and texts in words.
            add_special_tokens: Let the tokenizer put its own tokens around the texts.
            truncation: Which text of a pair is cut.
            max_length: Longest prompt in tokens, those the tokenizer adds included; `None` for any.
            truncation_side: Where a text is cut; `None` for what the tokenizer's settings say.

        Raises:
            ValidationError: an input that is no text, or a pair that cannot be cut that short.
        """
        backend = self._backend(max_length, truncation, 0, truncation_side, add_special_tokens)
        encoded = _run(backend, inputs, add_special_tokens, truncation)
        return [Encoding(item, with_types=self._with_types) for item in encoded]

    def encode_windows(
        self,
        inputs: Sequence[TextInput],
        *,
        max_length: int,
        stride: int,
        truncation: Truncation = "only_first",
        truncation_side: Literal["left", "right"] | None = None,
    ) -> list[list[Encoding]]:
        """Encodes each input as one window, or as many as it takes to reach its end.

        Args:
            inputs: Texts, pairs, and texts in words.
            max_length: Longest window in tokens, those the tokenizer adds included.
            stride: Tokens that a window has in common with the one before.
            truncation: Which text of a pair is spread over windows; the other is in each.
            truncation_side: Where the windows begin to be cut, as in `encode`.

        Raises:
            ValidationError: as `encode`, or windows with no room for more than the stride.
        """
        if stride < 0:
            message = f"stride must be at least 0, got {stride}"
            raise ValidationError(message, parameter="stride", value=stride)
        self._check_windows(inputs, max_length, stride, truncation)
        backend = self._backend(max_length, truncation, stride, truncation_side, True)
        encoded = _run(backend, inputs, True, truncation)
        return [
            [Encoding(item, with_types=self._with_types) for item in (first, *first.overflowing)]
            for first in encoded
        ]

    def _backend(
        self,
        max_length: int | None,
        truncation: Truncation,
        stride: int,
        side: Literal["left", "right"] | None,
        add_special_tokens: bool,
    ) -> tokenizers.Tokenizer:
        if truncation not in _TRUNCATIONS:
            message = f"truncation must be one of {', '.join(_TRUNCATIONS)}, got {truncation!r}"
            raise ValidationError(message, parameter="truncation", value=truncation)
        if max_length is None:
            return self.tokenizer.backend
        least = (self.num_special_tokens() if add_special_tokens else 0) + 1
        if max_length < least:
            message = f"max_length must be at least {least} for this tokenizer, got {max_length}"
            raise ValidationError(message, parameter="max_length", value=max_length)
        direction = side or self.tokenizer.config.get("truncation_side", "right")
        return self.tokenizer.truncating(max_length, stride, truncation, direction)

    def _check_windows(
        self,
        inputs: Sequence[TextInput],
        max_length: int,
        stride: int,
        truncation: Truncation,
    ) -> None:
        """Sees to it that every window brings something new, whatever its other text holds."""
        pairs = [item for item in inputs if isinstance(item, TextPair)]
        if pairs and truncation == "longest_first":
            message = "windows over a pair need truncation only_first or only_second"
            raise ValidationError(message, parameter="truncation", value=truncation)
        _check_room(max_length, self.num_special_tokens(), stride)
        kept = [pair.text if truncation == "only_second" else pair.text_pair for pair in pairs]
        around = self.num_special_tokens(pair=True)
        for pair, other in zip(pairs, self.encode(kept, add_special_tokens=False), strict=True):
            taken = around + len(other)
            if max_length - taken <= stride and len(self.encode([pair])[0]) > max_length:
                _check_room(max_length, taken, stride)


def _check_room(max_length: int, taken: int, stride: int) -> None:
    if max_length - taken <= stride:
        message = (
            f"max_length must be more than {taken + stride}, got {max_length}: what is the same in "
            f"every window takes {taken} tokens, the stride {stride}"
        )
        raise ValidationError(message, parameter="max_length", value=max_length)


def num_token_types(config: Mapping[str, Any]) -> int:
    """Segments that a model knows, by its `config.json`; 0 for one that has none."""
    model_type = str(config.get("model_type"))
    if model_type in _WITHOUT_TYPES:
        return 0
    return int(config.get("type_vocab_size", 2 if model_type in _TWO_TYPES else 0))


def _run(
    backend: tokenizers.Tokenizer,
    inputs: Sequence[TextInput],
    add_special_tokens: bool,
    truncation: Truncation,
) -> list[tokenizers.Encoding]:
    """Encodes inputs of both kinds, each kind as a batch, and returns them in order."""
    for item in inputs:
        _check_input(item)
    encoded: dict[int, tokenizers.Encoding] = {}
    for as_words in (False, True):
        chosen = [place for place, item in enumerate(inputs) if isinstance(item, Words) is as_words]
        batch = [_plain(inputs[place]) for place in chosen]
        try:
            done = backend.encode_batch(
                batch, is_pretokenized=as_words, add_special_tokens=add_special_tokens
            )
        except Exception as error:  # what `tokenizers` raises where there is nothing left to cut
            if "too short" not in str(error):
                raise
            message = f"a text is too short to be cut with truncation={truncation}"
            raise ValidationError(message, parameter="truncation", value=truncation) from error
        encoded.update(zip(chosen, done, strict=True))
    return [encoded[place] for place in range(len(inputs))]


def _plain(item: TextInput) -> str | tuple[str, str] | list[str]:
    if isinstance(item, TextPair):
        return (item.text, item.text_pair)
    return list(item) if isinstance(item, Words) else item


def _check_input(item: Any) -> None:
    texts = item if isinstance(item, (TextPair, Words)) else (item,)
    for text in texts:
        if not isinstance(text, str):
            message = f"a text must be a string, got {type(text).__name__}"
            raise ValidationError(message, parameter="text", value=text)
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                message = "a text is not valid Unicode: it holds a lone surrogate"
                raise ValidationError(message, parameter="text") from error
