"""Train the byte-level BPE tokenizer and write ``tokenizer.json``.

Trained on the training side of the corpus only, so that held-out numbers stay honest:

    python train_tokenizer.py --output ../../python/rustllm/default_model
"""

from __future__ import annotations

import argparse
from pathlib import Path

from corpus import collect
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCAB_SIZE = 4096
END_OF_TEXT = "<|endoftext|>"


def train_tokenizer(documents: list[str], vocab_size: int = VOCAB_SIZE) -> Tokenizer:
    """Train on ``documents``. Id 0 is the end-of-text token, which also begins every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{END_OF_TEXT} $A",
        pair=f"{END_OF_TEXT} $A {END_OF_TEXT} $B",
        special_tokens=[(END_OF_TEXT, tokenizer.token_to_id(END_OF_TEXT))],
    )
    return tokenizer


def main() -> None:
    """Train, save, and print how well each part of the corpus is compressed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="folder of tokenizer.json")
    arguments = parser.parse_args()
    corpus = collect()
    tokenizer = train_tokenizer(corpus.train)
    arguments.output.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(arguments.output / "tokenizer.json"))
    for name in ("train", "held_out", "snippets"):
        documents: list[str] = getattr(corpus, name)
        num_bytes = sum(len(document.encode()) for document in documents)
        encodings = tokenizer.encode_batch(documents)
        num_tokens = sum(len(encoding.ids) for encoding in encodings)
        ratio = num_bytes / num_tokens
        print(
            f"{name}: {len(documents)} documents, {num_bytes} bytes, {num_tokens} tokens, "
            f"{ratio:.3f} bytes per token"
        )


if __name__ == "__main__":
    main()
