"""Golden encoders with a tokenizer: their random weights fit any vocabulary of 101 tokens."""

from __future__ import annotations

import json
import shutil
import string
from pathlib import Path

GOLDENS = Path(__file__).parent.parent / "goldens"

SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP = 2, 3
PROMPTS = {"query": "q: ", "document": "d: "}


def write_pooled_model(folder: Path, case: str) -> Path:
    """A copy of a golden folder with a tokenizer of letters and, if it has modules, prompts."""
    target = folder / case
    shutil.copytree(GOLDENS / case, target)
    _write_tokenizer(target)
    if (target / "modules.json").is_file():
        settings = {"prompts": PROMPTS, "default_prompt_name": None}
        (target / "config_sentence_transformers.json").write_text(json.dumps(settings))
    return target


def letters(text: str) -> list[int]:
    """The ids of a text of lower-case letters, spaces and colons, without special tokens."""
    ids = []
    for word in text.replace(":", " : ").split():
        ids += [_VOCABULARY[word[0]], *(_VOCABULARY["##" + letter] for letter in word[1:])]
    return ids


_VOCABULARY = {
    token: index
    for index, token in enumerate(
        [*SPECIALS, ":", *string.ascii_lowercase, *("##" + c for c in string.ascii_lowercase)]
    )
}


def _write_tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    tokenizer = Tokenizer(models.WordPiece(_VOCABULARY, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", SEP), ("[CLS]", CLS))
    tokenizer.add_special_tokens(SPECIALS)
    tokenizer.save(str(folder / "tokenizer.json"))
    named = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    config = {**named, "unk_token": "[UNK]", "mask_token": "[MASK]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
