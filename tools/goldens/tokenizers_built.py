"""The two tokenizers of the golden data: byte-level (GPT-2, Qwen), SentencePiece-like (Llama 2).

Both are trained here, on sentences that `training_text` puts together; nothing is downloaded.
"""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from weights import rng_for

CHAT_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Ids 0, 1 and 2 of the chat tokenizer."""

SPM_SPECIALS = ("<unk>", "<s>", "</s>")
"""Ids 0, 1 and 2 of the SentencePiece-like tokenizer; 3 to 258 are the bytes."""

SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How text is cut before merging, in the manner of Qwen: words, single digits, punctuation."""

CHATML = (
    "{%- for message in messages -%}\n"
    "    {%- if message.role not in ('system', 'user', 'assistant') -%}\n"
    "        {{- raise_exception('Unknown role: ' + message.role) -}}\n"
    "    {%- endif -%}\n"
    "    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}\n"
    "{%- endfor -%}\n"
    "{%- if add_generation_prompt -%}\n"
    "    {{- '<|im_start|>assistant\\n' -}}\n"
    "{%- endif -%}\n"
)

INST = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}"
    "{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] | trim + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}"
    "{% endfor %}"
)

_SUBJECTS = (
    "the river",
    "a small model",
    "my neighbour",
    "the scheduler",
    "every block",
    "our garden",
)
_VERBS = ("remembers", "carries", "counts", "follows", "answers", "shares", "keeps")
_OBJECTS = (
    "the token",
    "a question",
    "the water",
    "the batch",
    "an old story",
    "the light",
    "its name",
)
_ENDINGS = (".", "!", "?", ", and then rests.", " in the morning.", " for 12 days.")
_OTHERS = (
    "Größe und Öl",
    "où est l'été",
    "привет, мир",
    "你好。世界",
    "こんにちは",
    "naïve café 😀",
)


def training_text() -> list[str]:
    """About ten kilobytes of short sentences, the same every time."""
    rng = rng_for("training text")
    lines = []
    for _ in range(220):
        parts = [options[rng.integers(len(options))] for options in (_SUBJECTS, _VERBS, _OBJECTS)]
        lines.append(" ".join(parts).capitalize() + _ENDINGS[rng.integers(len(_ENDINGS))])
    lines += [f"def step_{i}(x):\n    return x + {i}\n" for i in range(20)]
    return lines + list(_OTHERS) * 4


def build_chat_tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE in the manner of Qwen: every text round-trips, there is no unknown token."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[_special(text) for text in CHAT_SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    return tokenizer


def build_spm_tokenizer(num_merges: int) -> Tokenizer:
    """BPE over characters with byte fallback, built like the `tokenizer.json` of Llama 2."""
    learner = Tokenizer(BPE())
    learner.pre_tokenizer = pre_tokenizers.Metaspace()
    lines = [line for line in training_text() if line not in _OTHERS]
    learner.train_from_iterator(lines, BpeTrainer(vocab_size=num_merges, show_progress=False))
    learned = json.loads(learner.to_str())["model"]
    pieces = [*SPM_SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))]
    # Newlines are bytes in Llama 2's vocabulary, not pieces.
    pieces += [
        piece for piece in sorted(learned["vocab"], key=learned["vocab"].get) if "\n" not in piece
    ]
    merges = [(a, b) for a, b in learned["merges"] if "\n" not in a + b]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([_special(text) for text in SPM_SPECIALS])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer


def _special(text: str) -> AddedToken:
    return AddedToken(text, special=True, normalized=False)


def save_tokenizer(
    tokenizer: Tokenizer, folder: Path, specials: dict[str, str | None], **config: object
) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    added = {
        str(index): {
            "content": token.content,
            "lstrip": token.lstrip,
            "normalized": token.normalized,
            "rstrip": token.rstrip,
            "single_word": token.single_word,
            "special": token.special,
        }
        for index, token in sorted(tokenizer.get_added_tokens_decoder().items())
    }
    fields = {
        "added_tokens_decoder": added,
        **specials,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
        **config,
    }
    present = {key: value for key, value in specials.items() if value is not None}
    for name, value in (("tokenizer_config", fields), ("special_tokens_map", present)):
        (folder / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n")
