"""`token-classification`: labels of tokens, and entities made of them.

text      Marie  lives  in  Ålesund                     aggregation_strategy
tokens    marie  lives  in  ales    ##und
labels    B-PER  O      O   B-LOC   I-ORG               none: one entity a token
          [PER]             [LOC]   [ORG]               simple: neighbours of one label join
          [PER]             [LOC        ]               first, average, max: a word has one label
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextInput, Words
from rustllm.errors import ValidationError
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.scores import softmax

__all__ = ["TokenClassificationOptions", "TokenClassificationPipeline"]

_STRATEGIES: Final = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True)
class TokenClassificationOptions:
    """Options of a call.

    Args:
        aggregation_strategy: `none`: every token is an entity. `simple`: neighbours of one label
            are one entity. `first`, `average`, `max`: so, but all tokens of a word get one label,
            that of its first token, of the average of their scores, or of the surest token.
        ignore_labels: Labels that are left out.
        stride: Read texts that are too long in windows that share this many tokens; not with
            `none`. By default what is beyond the longest that the model reads is cut off.
        is_split_into_words: Whether an input is a list of words.
        delimiter: What stands between words, by default a space; offsets count with it.
    """

    aggregation_strategy: str = "none"
    ignore_labels: Sequence[str] | None = None
    stride: int | None = None
    is_split_into_words: bool = False
    delimiter: str | None = None

    def __post_init__(self) -> None:
        strategy = self.aggregation_strategy
        if self.strategy not in _STRATEGIES:
            allowed = ", ".join(_STRATEGIES)
            message = f"aggregation_strategy must be one of {allowed}, got {strategy!r}"
            raise ValidationError(message, parameter="aggregation_strategy", value=strategy)
        if self.stride is not None and self.strategy == "none":
            message = "stride needs an aggregation_strategy other than none"
            raise ValidationError(message, parameter="stride", value=self.stride)

    @property
    def strategy(self) -> str:
        """The aggregation strategy, in lower case."""
        return str(self.aggregation_strategy).lower()

    @property
    def ignored(self) -> frozenset[str]:
        """The labels that are left out."""
        return frozenset(["O"] if self.ignore_labels is None else self.ignore_labels)


@dataclass
class _Piece:
    """A token, or a whole word, with the scores of its labels."""

    word: str
    scores: Array
    start: int
    end: int
    index: int
    is_subword: bool


@dataclass
class _Tagged:
    """A token or a word with its label."""

    label: str
    score: np.float32
    word: str
    start: int
    end: int
    index: int

    @property
    def tag(self) -> tuple[bool, str]:
        """Whether it begins an entity for certain, and of which kind."""
        if self.label[:2] in ("B-", "I-"):
            return self.label[0] == "B", self.label[2:]
        return False, self.label


class TokenClassificationPipeline(PoolingPipeline):
    """Finds entities in texts.

    An input is a text; with `is_split_into_words`, a list of words. The result is a list of
    `{"entity", "score", "index", "word", "start", "end"}`, or with an aggregation strategy of
    `{"entity_group", "score", "word", "start", "end"}`. `start` and `end` count characters.
    """

    task = "token-classification"
    options_type = TokenClassificationOptions

    def _call(self, inputs: Any, options: TokenClassificationOptions) -> Any:
        # A list of words is one input, a list of lists of words are several.
        if options.is_split_into_words and not all(isinstance(item, list) for item in inputs):
            inputs = [inputs]
        return super()._call(inputs, options)

    def _encode(
        self, items: Sequence[Any], options: TokenClassificationOptions
    ) -> list[list[Encoding]]:
        texts: list[TextInput] = [
            Words(item) if options.is_split_into_words else item for item in items
        ]
        encoder, longest = self.model.encoder, self.model.max_length
        if options.stride is None:
            return [[encoding] for encoding in encoder.encode(texts, max_length=longest)]
        return encoder.encode_windows(texts, max_length=longest, stride=options.stride)

    def _pooling_params(self, options: TokenClassificationOptions) -> PoolingParams:
        return PoolingParams("token_classify", use_activation=False)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: TokenClassificationOptions,
    ) -> list[dict[str, Any]]:
        text, starts = item, None
        if options.is_split_into_words:
            delimiter = " " if options.delimiter is None else options.delimiter
            text, starts = delimiter.join(item), _word_starts(item, len(delimiter))
        entities = [
            entity
            for prompt, output in zip(prompts, outputs, strict=True)
            for entity in self._entities(
                list(self._pieces(text, prompt, softmax(output), starts)), options
            )
        ]
        return _without_overlaps(entities) if len(prompts) > 1 else entities

    def _pieces(
        self, text: str, prompt: Encoding, scores: Array, starts: list[int] | None
    ) -> Iterator[_Piece]:
        """The tokens of the text; whether each goes on with a word is for the vocabulary to say."""
        tokenizer = self.model.tokenizer
        knows_words = bool(getattr(tokenizer.backend.model, "continuing_subword_prefix", None))
        fields = zip(
            prompt.ids,
            prompt.tokens,
            prompt.offsets,
            prompt.word_ids,
            prompt.special_tokens_mask,
            strict=True,
        )
        for index, (token_id, token, (start, end), word_id, is_special) in enumerate(fields):
            if is_special:
                continue
            if starts is not None and word_id is not None:
                start, end = start + starts[word_id], end + starts[word_id]
            written = text[start:end]
            if token_id == tokenizer.unk_token_id:
                yield _Piece(written, scores[index], start, end, index, is_subword=False)
                continue
            if knows_words:
                is_subword = len(token) != len(written)
            else:
                is_subword = start > 0 and " " not in text[start - 1 : start + 1]
            yield _Piece(token, scores[index], start, end, index, is_subword)

    def _entities(
        self, pieces: Sequence[_Piece], options: TokenClassificationOptions
    ) -> list[dict[str, Any]]:
        if options.strategy not in ("none", "simple"):
            pieces = [self._join_word(word, options.strategy) for word in _words(pieces)]
        tagged = [self._tag(piece) for piece in pieces]
        if options.strategy == "none":
            entities = [_as_entity(item) for item in tagged]
        else:
            entities = [self._as_group(group) for group in _groups(tagged)]
        name = "entity" if options.strategy == "none" else "entity_group"
        return [entity for entity in entities if entity[name] not in options.ignored]

    def _tag(self, piece: _Piece) -> _Tagged:
        best = int(piece.scores.argmax())
        label, score = self.model.id2label[best], piece.scores[best]
        return _Tagged(label, score, piece.word, piece.start, piece.end, piece.index)

    def _join_word(self, pieces: Sequence[_Piece], strategy: str) -> _Piece:
        """One piece for the pieces of a word, with the scores that the strategy takes."""
        if strategy == "first":
            scores = pieces[0].scores
        elif strategy == "max":
            scores = max((piece.scores for piece in pieces), key=lambda scores: scores.max())
        else:
            scores = np.stack([piece.scores for piece in pieces]).mean(axis=0)
        first, last = pieces[0], pieces[-1]
        word = self.model.tokenizer.convert_tokens_to_string([piece.word for piece in pieces])
        return _Piece(word, scores, first.start, last.end, first.index, is_subword=False)

    def _as_group(self, group: Sequence[_Tagged]) -> dict[str, Any]:
        words = [item.word for item in group]
        return {
            "entity_group": group[0].label.split("-", 1)[-1],
            "score": float(np.mean([item.score for item in group])),
            "word": self.model.tokenizer.convert_tokens_to_string(words),
            "start": group[0].start,
            "end": group[-1].end,
        }


def _as_entity(item: _Tagged) -> dict[str, Any]:
    return {
        "entity": item.label,
        "score": float(item.score),
        "index": item.index,
        "word": item.word,
        "start": item.start,
        "end": item.end,
    }


def _words(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces of one word together."""
    word: list[_Piece] = []
    for piece in pieces:
        if word and not piece.is_subword:
            yield word
            word = []
        word.append(piece)
    if word:
        yield word


def _groups(tagged: Sequence[_Tagged]) -> Iterator[list[_Tagged]]:
    """Neighbours of one entity together: of one kind, none but the first of them a beginning."""
    group: list[_Tagged] = []
    for item in tagged:
        begins, kind = item.tag
        if group and (begins or kind != group[-1].tag[1]):
            yield group
            group = []
        group.append(item)
    if group:
        yield group


def _without_overlaps(entities: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of entities that begin within another, from windows that overlap, the longer or surer."""
    kept: list[dict[str, Any]] = []
    for entity in sorted(entities, key=lambda entity: entity["start"]):
        if kept and kept[-1]["start"] <= entity["start"] < kept[-1]["end"]:
            kept[-1] = max(kept[-1], entity, key=_length_and_score)
        else:
            kept.append(entity)
    return kept


def _length_and_score(entity: dict[str, Any]) -> tuple[int, float]:
    return entity["end"] - entity["start"], entity["score"]


def _word_starts(words: Sequence[str], gap: int) -> list[int]:
    """Where each word begins in the text they make."""
    return [0, *itertools.accumulate(len(word) + gap for word in words)]
