"""Streams of text: no character is ever split, and the pieces join to the text of the whole."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest

from rustllm.token_text import text_stream
from rustllm.tokenizer import Tokenizer

TEXTS = (
    "Grüße, 你好。👩‍👩‍👧 and 🇩🇪 q\u0303.",
    " leading and trailing ",
    "\n\n tabs\tand  spaces \n",
    "😀" * 20,
)


@pytest.fixture(params=("chat_llama", "tokenizer_spm"))
def folder(request: pytest.FixtureRequest, goldens: Path) -> Path:
    return goldens / str(request.param)


@pytest.fixture
def tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.from_folder(folder)


def pieces_of(
    tokenizer: Tokenizer, ids: list[int], prompt: list[int] | None = None, *, skip: bool = True
) -> list[str]:
    """What a stream shows after each token, and at the end."""
    stream = text_stream(
        tokenizer, prompt or [], skip_special_tokens=skip, spaces_between_special_tokens=True
    )
    return [*map(stream.push, ids), stream.flush()]


def test_reference_streams(tokenizer: Tokenizer, folder: Path) -> None:
    reference = json.loads((folder / "tokenizer_reference.json").read_text())
    for case in reference["streams"]:
        ids, texts = case["token_ids"], case["texts"]
        pieces = pieces_of(tokenizer, ids, skip=case["skip_special_tokens"])
        assert "".join(pieces) == texts[-1]
        for count in range(len(ids)):
            shown = "".join(pieces[: count + 1])
            assert texts[-1].startswith(shown)
            if not texts[count].endswith("\ufffd"):
                assert shown == texts[count]


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = pieces_of(tokenizer, ids)
    assert "".join(pieces) == tokenizer.decode(ids, skip_special_tokens=True)
    assert all("\ufffd" not in piece for piece in pieces)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("cut", [1, 3, 5])
def test_a_prompt_before_changes_nothing(tokenizer: Tokenizer, text: str, cut: int) -> None:
    prompt_text = "the river carries the water"
    prompt = tokenizer.encode(prompt_text)
    ids = tokenizer.encode(prompt_text + text)
    if ids[: len(prompt)] != prompt:
        pytest.skip("the text joins with the prompt's last token")
    assert "".join(pieces_of(tokenizer, ids[len(prompt) :], prompt[-cut:])) == text


def test_special_tokens_between_words_keep_the_space(tokenizer_spm: Path) -> None:
    tokenizer = Tokenizer.from_folder(tokenizer_spm)
    word = tokenizer.encode(" water", add_special_tokens=False)
    ids = [*word, 1, 2, *word]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(ids, skip_special_tokens=True)
    assert "".join(pieces_of(tokenizer, word, [*word, 2])).startswith(" ")


def test_unknown_ids_have_no_text(tokenizer: Tokenizer) -> None:
    word = tokenizer.encode("the water", add_special_tokens=False)
    ids = [word[0], 100_000, *word[1:]]
    assert "".join(pieces_of(tokenizer, ids)) == tokenizer.decode(word)


def test_an_unfinished_character_is_left_out(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("ab 😀", add_special_tokens=False)
    assert "".join(pieces_of(tokenizer, ids)) == "ab 😀"
    assert "".join(pieces_of(tokenizer, ids[:-1])) == "ab "


def test_random_bytes_equal_one_decoding(chat_llama: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_llama)
    rng = random.Random(0)
    for _ in range(200):
        ids = [rng.randrange(3, 384) for _ in range(rng.randrange(1, 30))]
        whole = tokenizer.decode(ids)
        shown = "".join(pieces_of(tokenizer, ids))
        assert whole.startswith(shown)
        assert set(whole[len(shown) :]) <= {"\ufffd"}
        assert len(whole) - len(shown) <= 1


def test_bytes_that_never_make_a_character_do_not_pile_up(tokenizer_spm: Path) -> None:
    tokenizer = Tokenizer.from_folder(tokenizer_spm)
    lone = tokenizer.convert_tokens_to_ids("<0xBF>")
    assert lone is not None
    pieces = pieces_of(tokenizer, [lone] * 40)
    gaps = [place for place, piece in enumerate(pieces) if piece]
    assert all(later - earlier <= 5 for earlier, later in itertools.pairwise(gaps))
    assert 30 <= len("".join(pieces)) <= 40


def test_the_replacement_character_itself_is_shown(chat_llama: Path) -> None:
    tokenizer = Tokenizer.from_folder(chat_llama)
    ids = tokenizer.encode("\ufffd")
    assert "".join(pieces_of(tokenizer, ids)[: len(ids)]) == "\ufffd"


@pytest.mark.parametrize(("spaces", "expected"), [(True, "a <x> <y> b"), (False, "a <x><y> b")])
def test_spaces_between_special_tokens(spaces: bool, expected: str) -> None:
    from tokenizers import AddedToken, models
    from tokenizers import Tokenizer as Backend

    backend = Backend(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    backend.add_special_tokens([AddedToken("<x>"), AddedToken("<y>")])
    tokenizer = Tokenizer(backend)
    stream = text_stream(
        tokenizer, [], skip_special_tokens=False, spaces_between_special_tokens=spaces
    )
    assert "".join(map(stream.push, [0, 2, 3, 1])) == expected
