"""Reference outputs for text: encoding, decoding, chat templates, a chat model's completions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from references import MIN_MARGIN, follow, greedy, load_float32
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

TEXTS = (
    "",
    " ",
    "a",
    "The river carries the water.",
    "  two spaces,  then\ttabs\n\n  and lines \r\n",
    "def step_7(x):\n    return x + 7\n",
    "don't WE'LL 12345 3.14",
    "Größe, œuvre, naïve café",
    "cafe\u0301 q\u0303 Z\u0335\u0321\u0321",  # combining marks
    "你好。世界。こんにちは 안녕",
    "привет, мир",
    "مرحبا",
    "😀 👩‍👩‍👧 🇩🇪 👍🏽",  # one code point, joined, a flag, a skin tone
    "tail 😀",
    "\u00a0\u2003\u200b\ufeff",  # unusual spaces
    "\ufffd",  # the replacement character itself, in the text
    "\x00\x01\x7f",
    "{SPECIAL_A}hello{SPECIAL_B} world{SPECIAL_A}",
)
"""Texts to encode; SPECIAL_A and SPECIAL_B stand for two special tokens of each tokenizer."""

STREAMED = ("The 😀 答案 is q\u0303.", "{SPECIAL_A}hi 👍🏽{SPECIAL_B}", " leading and trailing ")
"""Texts whose decoding is recorded after each token."""

Messages = list[dict[str, str]]

SYSTEM = {"role": "system", "content": "You count blocks."}
USER = {"role": "user", "content": "How many blocks are free?"}
ASSISTANT = {"role": "assistant", "content": "There are 12 😀"}
AGAIN = {"role": "user", "content": "  Et à l'été?\n"}
PARTIAL = {"role": "assistant", "content": "In the morning, the"}
PARTIAL_SPACE = {"role": "assistant", "content": "In the morning, "}

CHATS: tuple[tuple[str, Messages, bool, bool], ...] = (
    # name, messages, add_generation_prompt, continue_final_message
    ("user", [USER], True, False),
    ("user_no_prompt", [USER], False, False),
    ("system", [SYSTEM, USER], True, False),
    ("multi_turn", [SYSTEM, USER, ASSISTANT, AGAIN], True, False),
    ("multi_turn_no_prompt", [SYSTEM, USER, ASSISTANT, AGAIN], False, False),
    ("multi_turn_without_system", [USER, ASSISTANT, AGAIN], True, False),
    ("finished", [USER, ASSISTANT], False, False),
    ("continue_assistant", [USER, PARTIAL], False, True),
    ("continue_trailing_space", [USER, PARTIAL_SPACE], False, True),
    ("continue_multi_turn", [SYSTEM, USER, ASSISTANT, AGAIN, PARTIAL], False, True),
    ("empty_content", [{"role": "user", "content": ""}], True, False),
    ("special_in_content", [{"role": "user", "content": "say <|im_end|> or </s>"}], True, False),
)
"""Conversations to render with the chat template."""

REFUSED: tuple[tuple[str, Messages], ...] = (
    ("unknown_role", [{"role": "tool", "content": "42"}]),
    ("assistant_first", [ASSISTANT]),
)
"""Conversations that a template may refuse through `raise_exception`."""


STOPPING = ("Is 106 free, and why?", "Is 309 free, and why?")
"""Messages, found by search, on which the chat model stops: at id 0 and at id 2."""


def tokenizer_reference(folder: Path, specials: tuple[str, str]) -> dict[str, Any]:
    """The contents of `tokenizer_reference.json`."""
    tokenizer = AutoTokenizer.from_pretrained(folder)

    def fill(text: str) -> str:
        return text.replace("{SPECIAL_A}", specials[0]).replace("{SPECIAL_B}", specials[1])

    return {
        "vocab_size": len(tokenizer),
        "encode": [_encoded(tokenizer, fill(text), add) for text in TEXTS for add in (True, False)],
        "decode": [
            {"token_ids": ids, "skip_special_tokens": skip, "text": _decode(tokenizer, ids, skip)}
            for ids in _id_lists(tokenizer, [fill(text) for text in TEXTS])
            for skip in (True, False)
        ],
        "streams": [
            _stream(tokenizer, fill(text), skip) for text in STREAMED for skip in (True, False)
        ],
    }


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str, add: bool) -> dict[str, Any]:
    ids = tokenizer.encode(text, add_special_tokens=add)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return {"text": text, "add_special_tokens": add, "token_ids": ids, "tokens": tokens}


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], skip: bool) -> str:
    text: str = tokenizer.decode(list(ids), skip_special_tokens=skip)
    plain = tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=skip)
    if text != plain:
        raise RuntimeError(f"transformers decodes {ids} as {text!r}, tokenizers as {plain!r}")
    return text


def _id_lists(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> Iterator[list[int]]:
    """The texts' own ids, ids that cut a character in the middle, and ids past the vocabulary."""
    for text in texts:
        yield tokenizer.encode(text, add_special_tokens=False)
    emoji = tokenizer.encode("😀", add_special_tokens=False)
    yield emoji[:-1]
    yield emoji[1:]
    yield emoji[:2] + tokenizer.encode("ab", add_special_tokens=False)
    yield [2, *emoji, 0, *emoji, 2]
    yield [*emoji, len(tokenizer), *emoji, len(tokenizer) + 7]


def _stream(tokenizer: PreTrainedTokenizerBase, text: str, skip: bool) -> dict[str, Any]:
    """`texts[k]` is the decoding of the first k + 1 tokens."""
    ids = tokenizer.encode(text, add_special_tokens=False)
    texts = [_decode(tokenizer, ids[: k + 1], skip) for k in range(len(ids))]
    return {"token_ids": ids, "skip_special_tokens": skip, "texts": texts}


def chat_reference(folder: Path) -> dict[str, Any]:
    """The contents of `chat_reference.json`, without completions."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chats, refused = [], []
    for name, messages, add, keep_open in CHATS:
        options = {"add_generation_prompt": add, "continue_final_message": keep_open}
        case = {"name": name, "messages": messages, **options}
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        except Exception as error:  # jinja2.TemplateError, raised by the template
            refused.append({"name": name, "messages": messages, "error": str(error)})
            continue
        ids = tokenizer.apply_chat_template(messages, return_dict=False, **options)
        chats.append({**case, "text": text, "token_ids": ids})
    for name, messages in REFUSED:
        try:
            tokenizer.apply_chat_template(messages, tokenize=False)
        except Exception as error:
            refused.append({"name": name, "messages": messages, "error": str(error)})
    return {"chats": chats, "refused": refused}


def completions(folder: Path, chats: list[dict[str, Any]], max_tokens: int) -> list[dict[str, Any]]:
    """Greedy completions of the chats, plus one that ends at each stop token."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = load_float32(folder)
    found = [
        _completion(model, tokenizer, chat["name"], chat["text"], max_tokens) for chat in chats
    ]
    done = [item for item in found if item is not None]
    for content in STOPPING:
        messages = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        item = _completion(model, tokenizer, "stops", text, max_tokens)
        if item is None or item["finish_reason"] != "stop":
            raise RuntimeError(f"{content!r} no longer makes the chat model stop: find another")
        done.append({**item, "messages": messages})
    return done


def _completion(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    text: str,
    max_tokens: int,
) -> dict[str, Any] | None:
    """One greedy completion, or None where two tokens came too close."""
    stop = model.generation_config.eos_token_id
    prompt = tokenizer.encode(text, add_special_tokens=False)
    tokens = greedy(model, prompt, max_tokens, stop)
    if float(follow(model, prompt, tokens).margins().min()) < MIN_MARGIN:
        return None
    return {
        "name": name,
        "prompt_token_ids": prompt,
        "token_ids": tokens,
        "finish_reason": "stop" if tokens[-1] in stop else "length",
        "text": _decode(tokenizer, tokens, True),
    }
