"""A WordPiece tokenizer, and what transformers makes of texts with it.

python tools/goldens/pipeline_goldens.py            # rewrites tests/goldens/wordpiece
"""

# ruff: noqa: E402  (the environment has to be set before the libraries are imported)

from __future__ import annotations

import os
from pathlib import Path

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false"
)
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

from encoding_references import encoding_reference
from reference_file import write_json
from wordpiece_built import save_wordpiece_tokenizer

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"


def make_tokenizer(folder: Path) -> None:
    """The tokenizer, with what it and the others make of texts."""
    save_wordpiece_tokenizer(folder)
    folders = (folder, *(GOLDENS / name for name in ("chat_llama", "tokenizer_spm")))
    references = {"tokenizers": [encoding_reference(each) for each in folders]}
    write_json(folder / "encoding_reference.json", references)


def main() -> None:
    """Write the folders."""
    make_tokenizer(GOLDENS / "wordpiece")


if __name__ == "__main__":
    main()
