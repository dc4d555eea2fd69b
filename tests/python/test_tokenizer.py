"""The tokenizer against transformers' references, and the folders it can be loaded from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rustllm.errors import ModelLoadError, ValidationError
from rustllm.tokenizer import Tokenizer

FOLDERS = ("chat_llama", "tokenizer_spm")


@pytest.fixture(params=FOLDERS)
def folder(request: pytest.FixtureRequest, goldens: Path) -> Path:
    return goldens / str(request.param)


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


@pytest.fixture
def reference(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer_reference.json").read_text())
    return content


def test_encode_equals_transformers(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    for case in reference["encode"]:
        ids = tokenizer.encode(case["text"], add_special_tokens=case["add_special_tokens"])
        assert ids == case["token_ids"], case["text"]
        assert tokenizer.convert_ids_to_tokens(ids) == case["tokens"]


def test_encode_batch_equals_one_by_one(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    texts = [case["text"] for case in reference["encode"]]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


def test_decode_equals_transformers(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    for case in reference["decode"]:
        text = tokenizer.decode(case["token_ids"], skip_special_tokens=case["skip_special_tokens"])
        assert text == case["text"], case["token_ids"]


def test_vocab_size_counts_added_tokens(tokenizer: Tokenizer, reference: dict[str, Any]) -> None:
    assert tokenizer.vocab_size == len(tokenizer) == reference["vocab_size"]
    assert len(tokenizer.get_vocab()) == reference["vocab_size"]


def test_named_tokens(chat_llama: Path, tokenizer_spm: Path) -> None:
    chat, spm = Tokenizer.from_folder(chat_llama), Tokenizer.from_folder(tokenizer_spm)
    assert (chat.bos_token_id, chat.eos_token_id) == (None, 2)
    assert (spm.bos_token_id, spm.eos_token_id) == (1, 2)
    assert chat.special_token_ids == {0, 1, 2}
    assert chat.convert_tokens_to_ids("<|im_end|>") == 2
    assert chat.convert_tokens_to_ids("no such token") is None


def test_decoded_tokens_join_to_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("the river carries the water", add_special_tokens=False)
    assert len(ids) > 1
    assert "".join(map(tokenizer.decode_token, ids)).strip() == "the river carries the water"
    assert any(tokenizer.decode_token(token_id).startswith(" ") for token_id in ids[1:])


def _copy(folder: Path, to: Path, **changes: Any) -> Path:
    """The tokenizer's files in `to`, with some fields of its settings replaced."""
    for name in ("tokenizer.json", "special_tokens_map.json"):
        shutil.copy(folder / name, to / name)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.update(changes)
    (to / "tokenizer_config.json").write_text(json.dumps(config))
    return to


def test_add_bos_token_decides_over_tokenizer_json(tokenizer_spm: Path, tmp_path: Path) -> None:
    plain = Tokenizer.from_folder(tokenizer_spm).encode("hello", add_special_tokens=False)
    for add_bos, add_eos in ((False, False), (True, False), (False, True), (True, True)):
        changed = _copy(tokenizer_spm, tmp_path, add_bos_token=add_bos, add_eos_token=add_eos)
        ids = Tokenizer.from_folder(changed).encode("hello")
        assert ids == [1] * add_bos + plain + [2] * add_eos


def test_tokens_only_the_settings_know_are_added(chat_llama: Path, tmp_path: Path) -> None:
    extra = {"384": {"content": "<extra>", "special": False, "normalized": False}}
    changed = _copy(
        chat_llama,
        tmp_path,
        added_tokens_decoder=extra,
        additional_special_tokens=["<other>"],
    )
    tokenizer = Tokenizer.from_folder(changed)
    assert tokenizer.encode("<extra><other>") == [384, 385]
    assert tokenizer.special_token_ids >= {385}
    assert 384 not in tokenizer.special_token_ids


def test_truncation_and_padding_of_the_file_are_off(chat_llama: Path, tmp_path: Path) -> None:
    content = json.loads((chat_llama / "tokenizer.json").read_text())
    content["truncation"] = {
        "direction": "Right",
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    assert len(Tokenizer.from_folder(tmp_path).encode("one two three four five")) > 3


def test_vocab_and_merges_make_the_same_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, trainers

    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    backend.train_from_iterator(["a river carries the water, naïve café 😀"] * 3, trainer)
    backend.model.save(str(tmp_path))
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')

    tokenizer = Tokenizer.from_folder(tmp_path)
    text = "the river 😀 is naïve<|endoftext|>"
    assert tokenizer.encode(text) == backend.encode(text).ids
    assert tokenizer.encode(text)[-1] == tokenizer.eos_token_id == 0
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "has no tokenizer: looked for tokenizer.json"),
        ({"tokenizer.model": "x"}, "has a tokenizer.model but no tokenizer.json"),
        ({"spm.model": "x"}, "has a spm.model but no tokenizer.json"),
        ({"tokenizer.json": "{"}, "cannot load the tokenizer"),
        ({"tokenizer.json": '{"version": "1.0"}'}, "cannot load the tokenizer"),
        ({"tokenizer_config.json": "[1]"}, "must hold a JSON object"),
        ({"tokenizer_config.json": "{"}, "cannot read"),
    ],
)
def test_folders_that_cannot_be_loaded(files: dict[str, str], message: str, tmp_path: Path) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(ModelLoadError, match=message):
        Tokenizer.from_folder(tmp_path)


def test_bad_texts_and_ids_are_refused(chat_llama: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_llama)
    with pytest.raises(ValidationError, match="lone surrogate"):
        tokenizer.encode("half \ud83d")
    with pytest.raises(ValidationError, match="must be a string, got int"):
        tokenizer.encode(3)  # type: ignore[arg-type]
    for ids in ([-1], [2**32], ["a"]):
        with pytest.raises(ValidationError, match="integers from 0"):
            tokenizer.decode(ids)  # type: ignore[arg-type]
