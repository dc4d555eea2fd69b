"""A WordPiece tokenizer in the manner of BERT's uncased models, made of the sentences here."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import WordPiece
from tokenizers_built import save_tokenizer

SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Ids 0 to 4."""

MODEL_MAX_LENGTH = 64

LONGEST_WHOLE = 6
"""Letters of the longest word that is one token."""

SENTENCES = (
    "Marie Laveau opened the old mill by the river in Lyon last spring.",
    "The ferry to Ålesund leaves at seven, and nobody waits for the baker.",
    "Señor Núñez wrote to the Crème & Co. office in São Paulo about the late parcel.",
    "A garden needs water, light and somebody who remembers its name.",
    "Who counted the boxes? The harbour master of Gdańsk counted them twice.",
    "It was not the café but the library that closed on Monday 😀.",
    "Our neighbour sells honey, wax and candles at the market in Zürich.",
    "Is this film good or bad? The music is lovely, the story is dull.",
    "The scheduler of the railway answers every question in the morning.",
    "This example is about travel, cooking, sports, politics or music.",
    "How far is the lighthouse? It stands nine miles north of the town.",
    "Professor Kim of Busan University met Ms. O'Neill at the Berlin conference.",
)
"""Names, accents, punctuation, one emoji: what the stored texts are made of."""


def build_wordpiece_tokenizer() -> Tokenizer:
    """Lower case, no accents, `##` before what goes on; what it cannot write is `[UNK]`."""
    tokenizer = Tokenizer(WordPiece(vocabulary(), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, SPECIALS.index(name)) for name in ("[CLS]", "[SEP]")],
    )
    return tokenizer


def vocabulary() -> dict[str, int]:
    """Every character, alone and going on; short words whole, long ones in two pieces.

    The trainer of `tokenizers` breaks ties in another order each time, so that it is not used.
    """
    normalizer = normalizers.BertNormalizer(lowercase=True)
    cutter = pre_tokenizers.BertPreTokenizer()
    words = {
        word
        for sentence in SENTENCES
        for word, _ in cutter.pre_tokenize_str(normalizer.normalize_str(sentence))
    }
    characters = {character for word in words for character in word}
    pieces = {word if len(word) <= LONGEST_WHOLE else word[:LONGEST_WHOLE] for word in words}
    pieces |= {f"##{word[LONGEST_WHOLE:]}" for word in words if len(word) > LONGEST_WHOLE}
    pieces |= characters | {f"##{character}" for character in characters}
    return {piece: index for index, piece in enumerate((*SPECIALS, *sorted(pieces)))}


def save_wordpiece_tokenizer(folder: Path) -> None:
    """Write the tokenizer's files."""
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    save_tokenizer(
        build_wordpiece_tokenizer(),
        folder,
        dict(zip(names, SPECIALS, strict=True)),
        do_lower_case=True,
        model_max_length=MODEL_MAX_LENGTH,
        tokenizer_class="BertTokenizer",
    )
