"""Stop strings: found wherever tokens cut them, held back while they may still come."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from rustllm.detokenizer import IncrementalDetokenizer
from rustllm.sampling_params import SamplingParams
from rustllm.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(goldens: Path) -> Tokenizer:
    return Tokenizer.from_folder(goldens / "chat_llama")


def byte_tokens(tokenizer: Tokenizer, text: str) -> list[int]:
    """The text as one token for each byte: the finest cut there is."""
    vocab = {tokenizer.token_bytes(token_id): token_id for token_id in range(3, 384)}
    return [vocab[bytes([byte])] for byte in text.encode()]


def run(
    tokenizer: Tokenizer, ids: list[int], size: int = 1, **params: object
) -> tuple[list[str], str, int | None]:
    """Feeds `size` tokens at a time; returns deltas, text and where a stop string ended it."""
    detokenizer = IncrementalDetokenizer(tokenizer, [], SamplingParams(**params))  # type: ignore[arg-type]
    deltas = []
    for begin in range(0, len(ids), size):
        match = detokenizer.update(ids[begin : begin + size])
        if match is not None:
            deltas.append(detokenizer.take_delta())
            return deltas, detokenizer.text, match.num_tokens
        deltas.append(detokenizer.take_delta())
    detokenizer.end()
    deltas.append(detokenizer.take_delta())
    return deltas, detokenizer.text, None


@pytest.mark.parametrize("include", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_a_stop_string_across_tokens(tokenizer: Tokenizer, include: bool, size: int) -> None:
    ids = byte_tokens(tokenizer, "before STOP after")
    deltas, text, num_tokens = run(
        tokenizer, ids, size, stop="STOP", include_stop_str_in_output=include
    )
    assert text == "".join(deltas) == ("before STOP" if include else "before ")
    assert num_tokens == len("before STOP")


def test_the_longest_stop_less_one_character_is_held_back(tokenizer: Tokenizer) -> None:
    ids = byte_tokens(tokenizer, "abcdefgh")
    deltas, text, _ = run(tokenizer, ids, stop=["1234", "12"])
    assert deltas == ["", "", "", "a", "b", "c", "d", "e", "fgh"]
    assert text == "abcdefgh"
    deltas, _, _ = run(tokenizer, ids, stop=["1234"], include_stop_str_in_output=True)
    assert deltas == [*"abcdefgh", ""]


def test_the_text_does_not_depend_on_how_it_was_cut(tokenizer: Tokenizer) -> None:
    text = "the river carries the water, and naïve 😀 then rests in the morning"
    stops = ["morning!", "er, and", "naïve 😀"]
    coarse = tokenizer.encode(text)
    fine = byte_tokens(tokenizer, text)
    assert len(coarse) < len(fine)
    for ids in (coarse, fine):
        for size in (1, 2, 7, 1000):
            deltas, shown, _ = run(tokenizer, ids, size, stop=stops)
            assert shown == "".join(deltas) == "the river carries the wat"


def test_the_first_to_end_wins_then_the_longer(tokenizer: Tokenizer) -> None:
    ids = byte_tokens(tokenizer, "xxabcd")
    assert run(tokenizer, ids, 6, stop=["abcd", "bc"])[1] == "xxa"
    assert run(tokenizer, ids, 6, stop=["bc", "abc"])[1] == "xx"


def test_min_tokens_lets_stop_strings_pass(tokenizer: Tokenizer) -> None:
    ids = byte_tokens(tokenizer, "a.b.c.d")
    assert run(tokenizer, ids, stop=".")[1:] == ("a", 2)
    assert run(tokenizer, ids, 7, stop=".", min_tokens=2)[1:] == ("a.b", 4)
    assert run(tokenizer, ids, stop=".", min_tokens=3)[1:] == ("a.b", 4)
    assert run(tokenizer, ids, stop=".", min_tokens=6)[1:] == ("a.b.c.d", None)


def test_a_stop_token_has_no_text(tokenizer: Tokenizer) -> None:
    ids = [*byte_tokens(tokenizer, "ab"), tokenizer.encode(" water")[0]]
    for params, expected in (
        (SamplingParams(), "ab"),
        (SamplingParams(stop=["zz"]), "ab"),
        (SamplingParams(include_stop_str_in_output=True), "ab" + tokenizer.decode(ids[2:])),
    ):
        detokenizer = IncrementalDetokenizer(tokenizer, [], params)
        assert detokenizer.update(ids, stop_token_last=True) is None
        detokenizer.end()
        assert detokenizer.text == expected


def test_special_tokens_are_skipped_on_request(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("<|im_start|>a<|im_end|>")
    assert run(tokenizer, ids, skip_special_tokens=True)[1] == "a"
    assert run(tokenizer, ids, skip_special_tokens=False)[1] == "<|im_start|>a<|im_end|>"


def test_deltas_join_to_the_text(tokenizer: Tokenizer) -> None:
    rng = random.Random(1)
    for _ in range(50):
        ids = [rng.randrange(384) for _ in range(40)]
        stops = [tokenizer.decode(ids[k : k + 2])[:4] for k in rng.sample(range(30), 2)]
        stops = [stop for stop in stops if stop]
        results = [
            run(tokenizer, ids, size, stop=stops, min_tokens=rng.randrange(3))
            for size in (1, 4, 40)
        ]
        for deltas, text, _ in results:
            assert "".join(deltas) == text
