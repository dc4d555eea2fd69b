"""Encodings of texts and pairs against what transformers' tokenizers make of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rustllm.encoding import Encoding, TextEncoder, TextInput, TextPair, Words, num_token_types
from rustllm.errors import ValidationError
from rustllm.tokenizer import Tokenizer

FOLDERS = ("wordpiece", "chat_llama", "tokenizer_spm")
LONG = "The ferry leaves at seven and the harbour master counted every box twice."


@pytest.fixture
def encoder(goldens: Path) -> TextEncoder:
    return TextEncoder(Tokenizer.from_folder(goldens / "wordpiece"), num_token_types=2)


def as_stored(encoding: Encoding) -> dict[str, Any]:
    return {
        "ids": encoding.ids,
        "token_type_ids": encoding.token_type_ids,
        "special_tokens_mask": encoding.special_tokens_mask,
        "offsets": [place for pair in encoding.offsets for place in pair],
        "word_ids": encoding.word_ids,
        "sequence_ids": encoding.sequence_ids,
    }


def as_input(texts: Sequence[str]) -> str | TextPair:
    return texts[0] if len(texts) == 1 else TextPair(*texts)


@pytest.mark.parametrize("folder", FOLDERS)
def test_encodes_as_transformers_does(goldens: Path, folder: str) -> None:
    stored = json.loads((goldens / "wordpiece" / "encoding_reference.json").read_text())
    [reference] = [item for item in stored["tokenizers"] if item["tokenizer"] == folder]
    encoder = TextEncoder(Tokenizer.from_folder(goldens / folder), num_token_types=2)
    several = 0
    for case in reference["cases"]:
        cut = {key: case[key] for key in ("truncation", "max_length", "stride") if key in case}
        if "stride" in case:
            [found] = encoder.encode_windows([as_input(case["texts"])], **cut)
            several += len(found) > 1
        else:
            found = encoder.encode([as_input(case["texts"])], **cut)
        assert [as_stored(encoding) for encoding in found] == case["encodings"], case["texts"]
    assert several > 2


def test_a_batch_of_every_kind_keeps_its_order(encoder: TextEncoder) -> None:
    inputs: list[TextInput] = [
        LONG,
        Words(("São", "Paulo")),
        TextPair("Who?", "The baker."),
        Words(()),
        "é",
    ]
    together = encoder.encode(inputs)
    assert [e.ids for e in together] == [encoder.encode([item])[0].ids for item in inputs]
    words = together[1]
    assert words.word_ids == [None, *sorted(w for w in words.word_ids if w is not None), None]
    assert max(end for _, end in words.offsets) == len("Paulo")
    assert len(together[3]) == 2
    assert encoder.encode([]) == []


def test_cuts_do_not_stay_behind(encoder: TextEncoder) -> None:
    whole = encoder.encode([LONG])[0].ids
    assert encoder.encode([LONG], max_length=8)[0].ids == [*whole[:7], whole[-1]]
    left = encoder.encode([LONG], max_length=8, truncation_side="left")[0].ids
    assert left == [whole[0], *whole[-7:]]
    assert encoder.encode([LONG])[0].ids == whole == encoder.tokenizer.encode(LONG)
    bare = encoder.encode([LONG], add_special_tokens=False, max_length=8)[0]
    assert bare.ids == whole[1:9]


def test_token_types_are_for_models_that_have_them(goldens: Path) -> None:
    tokenizer = Tokenizer.from_folder(goldens / "wordpiece")
    pair = TextPair("a", "b")
    assert TextEncoder(tokenizer).encode([pair])[0].token_type_ids is None
    assert TextEncoder(tokenizer, num_token_types=1).encode([pair])[0].token_type_ids is None
    types = TextEncoder(tokenizer, num_token_types=2).encode([pair])[0].token_type_ids
    assert types == [0, 0, 0, 1, 1]
    tokenizer.config["model_input_names"] = ["input_ids", "attention_mask"]
    assert TextEncoder(tokenizer, num_token_types=2).encode([pair])[0].token_type_ids is None
    assert num_token_types({"model_type": "bert"}) == 2
    assert num_token_types({"model_type": "roberta", "type_vocab_size": 1}) == 1
    assert num_token_types({"model_type": "xlm-roberta"}) == 0
    assert num_token_types({"model_type": "mpnet", "type_vocab_size": 2}) == 0


def test_windows_are_refused_only_where_they_cannot_go_on(encoder: TextEncoder) -> None:
    short, long = TextPair(LONG, "Yes."), TextPair(LONG, LONG)
    needed = len(encoder.encode([short])[0])
    windows = encoder.encode_windows(
        [short, "Yes."], max_length=needed, stride=9, truncation="only_second"
    )
    assert [len(item) for item in windows] == [1, 1]
    with pytest.raises(ValidationError, match=r"max_length must be more than \d+, got"):
        encoder.encode_windows([long], max_length=needed, stride=9, truncation="only_second")
    with pytest.raises(ValidationError, match=r"more than 11, got 11: .* takes 2 tokens"):
        encoder.encode_windows(["a"], max_length=11, stride=9)


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([3], {}, "a text must be a string, got int"),
        ([("a", None)], {}, "a text must be a string, got tuple"),
        (["\ud800"], {}, "lone surrogate"),
        (["a"], {"truncation": "longest"}, "truncation must be one of longest_first, only_first"),
        (["a"], {"max_length": 2}, "max_length must be at least 3 for this tokenizer, got 2"),
        ([TextPair(LONG, "a")], {"max_length": 9, "truncation": "only_second"}, "too short"),
    ],
)
def test_refuses(
    encoder: TextEncoder, given: list[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        encoder.encode(given, **options)


def test_refuses_windows_over_both_texts(encoder: TextEncoder) -> None:
    pair = TextPair(LONG, LONG)
    with pytest.raises(ValidationError, match="need truncation only_first or only_second"):
        encoder.encode_windows([pair], max_length=9, stride=1, truncation="longest_first")
    with pytest.raises(ValidationError, match="stride must be at least 0, got -1"):
        encoder.encode_windows([LONG], max_length=9, stride=-1)
