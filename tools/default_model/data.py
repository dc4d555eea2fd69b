"""Token streams and the endless batches drawn from them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer

Tokens = NDArray[np.int64]

CONTEXT = 512
LONG_FRACTION = 0.1  # of the batches, at twice the context
SNIPPET_FRACTION = 0.2  # of the windows


def encode_stream(tokenizer: Tokenizer, documents: list[str]) -> Tokens:
    """Join documents to one stream; the tokenizer puts the end-of-text token before each."""
    encodings = tokenizer.encode_batch(documents)
    return np.concatenate([np.asarray(encoding.ids, dtype=np.int64) for encoding in encodings])


def windows(stream: Tokens, length: int, random: np.random.Generator) -> Iterator[Tokens]:
    """Yield windows of ``length + 1`` tokens for ever: all of them, shuffled, every epoch anew."""
    while True:
        start = int(random.integers(length))
        count = (len(stream) - start - 1) // length
        for index in random.permutation(count):
            begin = start + int(index) * length
            yield stream[begin : begin + length + 1]


def batches(
    files: Tokens, snippets: Tokens, batch_tokens: int, random: np.random.Generator
) -> Iterator[torch.Tensor]:
    """Yield ``[rows, length + 1]`` batches of ``batch_tokens`` predicted tokens."""
    sources = {
        length: (windows(files, length, random), windows(snippets, length, random))
        for length in (CONTEXT, 2 * CONTEXT)
    }
    while True:
        length = 2 * CONTEXT if random.random() < LONG_FRACTION else CONTEXT
        from_files, from_snippets = sources[length]
        rows = [
            next(from_snippets if random.random() < SNIPPET_FRACTION else from_files)
            for _ in range(batch_tokens // length)
        ]
        yield torch.from_numpy(np.stack(rows))
