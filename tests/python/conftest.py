"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDENS = Path(__file__).parent.parent / "goldens"


@pytest.fixture(scope="session")
def goldens() -> Path:
    """The folder of golden checkpoints and tokenizers; its README says what is in it."""
    return GOLDENS


@pytest.fixture(scope="session")
def chat_llama(goldens: Path) -> Path:
    """A tiny model with a byte-level tokenizer, chat template and generation defaults."""
    return goldens / "chat_llama"


@pytest.fixture(scope="session")
def tokenizer_spm(goldens: Path) -> Path:
    """A SentencePiece-like tokenizer with byte fallback, without a model."""
    return goldens / "tokenizer_spm"
