"""What transformers' tokenizers make of texts and pairs: types, masks, offsets, windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

TEXTS = (
    "Marie Laveau lives in Lyon.",
    "Señor Núñez of São Paulo 😀 ate 🥐 and naïve crêpes",
    "  two  spaces,\ttab\nand a [MASK] in   the garden  ",
    "",
)
LONG = "The ferry leaves at seven and the harbour master counted every box twice in the morning."
PAIRS = (
    ("Who counted the boxes?", LONG),
    (LONG, "Café!"),
    ("", "It was Zürich."),
)
CUTS = (
    ("longest_first", 18),
    ("only_first", 20),
    ("only_second", 28),
)
WINDOWS = ((16, 0), (16, 3), (14, 4))
"""Lengths and strides."""


def encoding_reference(folder: Path) -> dict[str, Any]:
    """Encodings of single texts and pairs: whole, cut, and in windows."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {
        "return_offsets_mapping": True,
        "return_special_tokens_mask": True,
        "return_token_type_ids": True,
    }

    def encode(texts: tuple[str, ...], **more: Any) -> list[dict[str, Any]]:
        # With overflowing tokens there is a batch of one or more windows, with none a single one.
        batch = tokenizer(*([text] for text in texts), **options, **more)
        return [
            {
                "ids": batch["input_ids"][i],
                "token_type_ids": batch["token_type_ids"][i],
                "special_tokens_mask": batch["special_tokens_mask"][i],
                "offsets": [place for pair in batch["offset_mapping"][i] for place in pair],
                "word_ids": batch.word_ids(i),
                "sequence_ids": batch.sequence_ids(i),
            }
            for i in range(len(batch["input_ids"]))
        ]

    cases: list[dict[str, Any]] = []
    for texts in (*((text,) for text in TEXTS), *PAIRS):
        cases.append({"texts": list(texts), "encodings": encode(texts)})
    for strategy, length in CUTS:
        for texts in ((LONG,), *PAIRS):
            if (strategy, len(texts)) == ("only_second", 1) or not can_cut(texts, strategy):
                continue
            cut = {"truncation": strategy, "max_length": length}
            cases.append({"texts": list(texts), **cut, "encodings": encode(texts, **cut)})
    for length, stride in WINDOWS:
        for texts, strategy in (((LONG,), "only_first"), ((PAIRS[0][0][:3], LONG), "only_second")):
            cut = {"truncation": strategy, "max_length": length, "stride": stride}
            found = encode(texts, **cut, return_overflowing_tokens=True)
            cases.append({"texts": list(texts), **cut, "encodings": found})
    return {"tokenizer": folder.name, "cases": cases}


def can_cut(texts: tuple[str, ...], strategy: str) -> bool:
    """Whether it is the long text that is to be cut."""
    place = {"only_first": 0, "only_second": 1}.get(strategy)
    return place is None or texts[place] == LONG
