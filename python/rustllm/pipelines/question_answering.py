"""`question-answering`: the part of a context that answers a question.

A context that is too long is read in windows, each with the question before it. The model scores
each token as the first and as the last of the answer; the score of a span is the product of both
shares, and spans of the same words add up.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rustllm._core import PoolingParams
from rustllm.encoding import Encoding, TextPair
from rustllm.errors import ValidationError
from rustllm.pipelines.base import PoolingPipeline
from rustllm.pipelines.pooled_model import Array
from rustllm.pipelines.scores import softmax

__all__ = ["QuestionAnsweringOptions", "QuestionAnsweringPipeline"]

_MAX_SEQ_LEN = 384
_DOC_STRIDE = 128


@dataclass(frozen=True)
class QuestionAnsweringOptions:
    """Options of a call.

    Args:
        top_k: How many answers, likeliest first.
        max_answer_len: Longest answer, in tokens.
        max_seq_len: Longest window, question included, in tokens; by default 384, or as much as
            the model reads.
        doc_stride: Tokens that a window shares with the one before; by default 128, or half of the
            window.
        handle_impossible_answer: Whether "no answer", an empty text, may be an answer.
        align_to_words: Take whole words where an answer begins or ends within one.
    """

    top_k: int = 1
    max_answer_len: int = 15
    max_seq_len: int | None = None
    doc_stride: int | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True

    def __post_init__(self) -> None:
        for name in ("top_k", "max_answer_len", "max_seq_len"):
            value = getattr(self, name)
            if value is not None and value < 1:
                message = f"{name} must be at least 1, got {value}"
                raise ValidationError(message, parameter=name, value=value)


class QuestionAnsweringPipeline(PoolingPipeline):
    """Finds answers in contexts.

    Called with `question=` and `context=`, each a text or a list of texts, or with
    `{"question": ..., "context": ...}`, a list or a generator of those. The result is
    `{"score", "start", "end", "answer"}` with the place in the context in characters; a list of
    those where there are several answers. A list of one question gives the result of that one.
    """

    task = "question-answering"
    options_type = QuestionAnsweringOptions

    def __call__(
        self, inputs: Any = None, context: Any = None, *, question: Any = None, **options: Any
    ) -> Any:
        """Answers one question, a list, or a generator of them; see the class."""
        if context is not None or question is not None:
            inputs = _pairs(inputs if question is None else question, context)
        results = super().__call__(inputs, **options)
        return results[0] if isinstance(results, list) and _is_one_of_a_list(inputs) else results

    def _encode(
        self, items: Sequence[Any], options: QuestionAnsweringOptions
    ) -> list[list[Encoding]]:
        length = options.max_seq_len or min(self.model.max_length, _MAX_SEQ_LEN)
        stride = min(length // 2, _DOC_STRIDE) if options.doc_stride is None else options.doc_stride
        return self.model.encoder.encode_windows(
            [_read_input(item) for item in items],
            max_length=length,
            stride=stride,
            truncation="only_second",
        )

    def _pooling_params(self, options: QuestionAnsweringOptions) -> PoolingParams:
        return PoolingParams("token_classify", use_activation=False)

    def _postprocess(
        self,
        item: Any,
        prompts: Sequence[Encoding],
        outputs: Sequence[Array],
        options: QuestionAnsweringOptions,
    ) -> Any:
        context = _read_input(item).text_pair
        answers: dict[str, dict[str, Any]] = {}
        null_score = np.inf
        for prompt, output in zip(prompts, outputs, strict=True):
            starts, ends = self._shares(prompt, output)
            null_score = min(null_score, float(starts[0] * ends[0]))
            starts[0] = ends[0] = 0
            for first, last, score in _best_spans(starts, ends, options):
                begin, end = _characters(prompt, first, last, options)
                answer = context[begin:end]
                known = answers.setdefault(
                    answer.lower(), {"score": 0.0, "start": begin, "end": end, "answer": answer}
                )
                known["score"] += score
        found = list(answers.values())
        if options.handle_impossible_answer:
            found.append({"score": null_score, "start": 0, "end": 0, "answer": ""})
        found.sort(key=lambda answer: answer["score"], reverse=True)
        best = found[: options.top_k]
        return best[0] if len(best) == 1 else best

    def _shares(self, prompt: Encoding, scores: Array) -> tuple[Array, Array]:
        """How likely an answer begins, and ends, at each token of the context or the first token.

        The first token stands for "no answer", for models that were trained to say so.
        """
        cls_token_id = self.model.tokenizer.cls_token_id
        allowed = np.array(
            [
                text == 1 or (cls_token_id is not None and token == cls_token_id)
                for text, token in zip(prompt.sequence_ids, prompt.ids, strict=True)
            ]
        )
        masked = np.where(allowed[:, None], scores.astype(np.float64), -np.inf)
        shares = softmax(masked.T)
        return shares[0], shares[1]


def _best_spans(
    starts: Array, ends: Array, options: QuestionAnsweringOptions
) -> Iterator[tuple[int, int, float]]:
    """The likeliest spans; more than asked for, as some may turn out to be of the same words."""
    count = options.top_k * 2 + 10 if options.align_to_words else options.top_k
    products = np.tril(np.triu(np.outer(starts, ends)), options.max_answer_len - 1)
    flat = products.ravel()
    chosen = np.argpartition(-flat, count)[:count] if count < len(flat) else np.arange(len(flat))
    for place in chosen[np.argsort(-flat[chosen], kind="stable")]:
        first, last = divmod(int(place), len(starts))
        if flat[place] > 0:
            yield first, last, float(flat[place])


def _characters(
    prompt: Encoding, first: int, last: int, options: QuestionAnsweringOptions
) -> tuple[int, int]:
    """Where a span of tokens stands in the context."""
    if options.align_to_words:
        words = prompt.word_to_chars(first), prompt.word_to_chars(last)
        if words[0] is not None and words[1] is not None:
            return words[0][0], words[1][1]
    return prompt.offsets[first][0], prompt.offsets[last][1]


def _pairs(question: Any, context: Any) -> Any:
    """One question, or a list of questions on one context or as many."""
    if isinstance(question, str):
        return {"question": question, "context": context}
    contexts = [context] * len(question) if isinstance(context, str) else context
    if not isinstance(contexts, Iterable) or len(list(contexts)) != len(question):
        message = "there must be one context, or as many as questions"
        raise ValidationError(message, parameter="context", value=context)
    return [{"question": q, "context": c} for q, c in zip(question, contexts, strict=True)]


def _read_input(item: Any) -> TextPair:
    if isinstance(item, TextPair):
        return item
    if not isinstance(item, Mapping) or not {"question", "context"} <= item.keys():
        message = "an input must be a dict with a question and a context"
        raise ValidationError(message, parameter="inputs", value=item)
    for name in ("question", "context"):
        if not isinstance(item[name], str) or not item[name]:
            message = f"{name} must be a text that is not empty, got {item[name]!r}"
            raise ValidationError(message, parameter=name, value=item[name])
    return TextPair(item["question"], item["context"])


def _is_one_of_a_list(inputs: Any) -> bool:
    return isinstance(inputs, list) and len(inputs) == 1
