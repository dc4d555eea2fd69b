"""A model's tokenizer: the files of its folder around `tokenizers.Tokenizer`."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rustllm.chat_template import render_chat
from rustllm.errors import ModelLoadError, ValidationError
from rustllm.json_files import read_json_object
from rustllm.token_text import byte_level_bytes

if TYPE_CHECKING:
    import tokenizers

__all__ = ["Tokenizer"]

_NAMED_TOKENS: Final = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


class Tokenizer:
    """Text to token ids and back, and chat templates.

    Args:
        backend: The `tokenizers` object that does the work.
        config: Contents of `tokenizer_config.json`.
        chat_templates: Jinja sources by name; `default` is the usual one.
    """

    def __init__(
        self,
        backend: tokenizers.Tokenizer,
        config: Mapping[str, Any] | None = None,
        chat_templates: Mapping[str, str] | None = None,
    ) -> None:
        self.config = dict(config or {})
        self.chat_templates = dict(chat_templates or {})
        self.special_tokens = _named_tokens(self.config)
        """`bos_token`, `eos_token` and so on, as text."""
        self._backend = backend
        backend.no_truncation()
        backend.no_padding()
        _add_missing_tokens(backend, self.config, self.special_tokens)
        _set_bos_eos(backend, self.config, self.special_tokens)

        added = backend.get_added_tokens_decoder()
        self.added_tokens: dict[int, str] = {index: token.content for index, token in added.items()}
        """Tokens outside the model of the vocabulary, by id."""
        self.special_token_ids: frozenset[int] = frozenset(
            index for index, token in added.items() if token.special
        )
        self.is_byte_level: bool = type(backend.decoder).__name__ == "ByteLevel"
        """Whether each token stands for bytes of its own."""
        self.token_bytes = functools.lru_cache(maxsize=None)(self._token_bytes)
        self.decode_token = functools.lru_cache(maxsize=None)(self._decode_token)
        self.truncating = functools.lru_cache(maxsize=8)(self._truncating)

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """Loads `tokenizer.json`, or `vocab.json` and `merges.txt`, and the settings beside it.

        Raises:
            ModelLoadError: no tokenizer in the folder, or one that cannot be read.
        """
        folder = Path(folder)
        special = read_json_object(folder / "special_tokens_map.json")
        config = {**special, **read_json_object(folder / "tokenizer_config.json")}
        return cls(_load_backend(folder, config), config, _chat_templates(folder, config))

    def __len__(self) -> int:
        return self.vocab_size

    @property
    def vocab_size(self) -> int:
        """Number of tokens, added ones included. A model may have room for more."""
        return self._backend.get_vocab_size(with_added_tokens=True)

    @property
    def backend(self) -> tokenizers.Tokenizer:
        """The `tokenizers` object that does the work: it neither cuts nor pads, leave it so."""
        return self._backend

    @property
    def bos_token_id(self) -> int | None:
        """The token texts begin with, if there is one."""
        return self._named_id("bos_token")

    @property
    def eos_token_id(self) -> int | None:
        """The token texts end with, if there is one."""
        return self._named_id("eos_token")

    @property
    def pad_token_id(self) -> int | None:
        """The token that fills up short rows, if there is one."""
        return self._named_id("pad_token")

    @property
    def unk_token_id(self) -> int | None:
        """The token for what the vocabulary cannot write, if there is one."""
        return self._named_id("unk_token")

    @property
    def cls_token_id(self) -> int | None:
        """The token that stands for a whole prompt, if there is one."""
        return self._named_id("cls_token")

    @property
    def mask_token_id(self) -> int | None:
        """The token that stands for a word to be guessed, if there is one."""
        return self._named_id("mask_token")

    def get_vocab(self) -> dict[str, int]:
        """All tokens as the vocabulary writes them, with their ids."""
        return self._backend.get_vocab(with_added_tokens=True)

    def convert_tokens_to_ids(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it."""
        return self._backend.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary writes it; `None` for an id it does not have."""
        return self._backend.id_to_token(token_id)

    def convert_ids_to_tokens(self, token_ids: Sequence[int]) -> list[str | None]:
        """`id_to_token` of each."""
        return [self._backend.id_to_token(token_id) for token_id in token_ids]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """The text of tokens as the vocabulary writes them."""
        decoder = self._backend.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: The text; special tokens written out in it become those tokens.
            add_special_tokens: Let the tokenizer add its own, such as beginning-of-sequence.

        Raises:
            ValidationError: not a string, or one with half a surrogate pair.
        """
        return self.encode_batch([text], add_special_tokens=add_special_tokens)[0]

    def encode_batch(
        self, texts: Sequence[str], *, add_special_tokens: bool = True
    ) -> list[list[int]]:
        """Token ids of several texts, on several threads."""
        for text in texts:
            _check_text(text)
        if len(texts) == 1:
            return [self._backend.encode(texts[0], add_special_tokens=add_special_tokens).ids]
        encodings = self._backend.encode_batch_fast(
            list(texts), add_special_tokens=add_special_tokens
        )
        return [encoding.ids for encoding in encodings]

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids; ids outside the vocabulary have none.

        Raises:
            ValidationError: an id that no vocabulary could have.
        """
        try:
            return self._backend.decode(token_ids, skip_special_tokens=skip_special_tokens)
        except (OverflowError, TypeError) as error:
            message = "token ids must be integers from 0 to 4294967295"
            raise ValidationError(message, parameter="token_ids", value=token_ids) from error

    def get_chat_template(
        self, chat_template: str | None = None, *, tools: Sequence[Any] | None = None
    ) -> str:
        """The Jinja source to use.

        Args:
            chat_template: A source, the name of one of the model's, or `None` for the model's own.
            tools: With tools a template named `tool_use` goes before the default.

        Raises:
            ValidationError: the model has no template, or none of that name.
        """
        if chat_template is not None:
            return self.chat_templates.get(chat_template, chat_template)
        names = ("tool_use", "default") if tools else ("default",)
        for name in names:
            if name in self.chat_templates:
                return self.chat_templates[name]
        known = ", ".join(sorted(self.chat_templates))
        message = "this model's tokenizer has no chat template: pass chat_template="
        if known:
            message = f"this model has no default chat template: pass chat_template= one of {known}"
        raise ValidationError(message, parameter="chat_template")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        chat_template: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        documents: Sequence[Mapping[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        **kwargs: Any,
    ) -> str:
        """Renders a conversation with a chat template; see `render_chat`.

        The text holds its special tokens: encode it with `add_special_tokens=False`.
        """
        return render_chat(
            self.get_chat_template(chat_template, tools=tools),
            messages,
            special_tokens=self.special_tokens,
            tools=tools,
            documents=documents,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            kwargs=kwargs,
        )

    def _truncating(
        self, max_length: int, stride: int, strategy: str, direction: str
    ) -> tokenizers.Tokenizer:
        """A `tokenizers` object that cuts what it encodes; it shares this one's vocabulary.

        Truncation is a setting of the object, not of a call: one object for each setting lets
        threads encode at once.
        """
        from tokenizers import Tokenizer as Backend

        backend = Backend(self._backend.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor"):
            setattr(backend, part, getattr(self._backend, part))
        added = self._backend.get_added_tokens_decoder()
        backend.add_tokens([added[token_id] for token_id in sorted(added)])
        backend.enable_truncation(max_length, stride=stride, strategy=strategy, direction=direction)
        return backend

    def _named_id(self, name: str) -> int | None:
        token = self.special_tokens.get(name)
        return None if token is None else self._backend.token_to_id(token)

    def _token_bytes(self, token_id: int) -> bytes:
        """The bytes a token of a byte-level vocabulary stands for."""
        if token_id in self.added_tokens:
            return self.added_tokens[token_id].encode()
        token = self._backend.id_to_token(token_id)
        return b"" if token is None else byte_level_bytes(token)

    def _decode_token(self, token_id: int) -> str:
        """One token as text, a leading space included."""
        if self.is_byte_level:
            return self.token_bytes(token_id).decode(errors="replace")
        alone = self.decode([token_id])
        twice = self.decode([token_id, token_id])
        return twice[len(alone) :] if twice.startswith(alone) else alone


def _check_text(text: Any) -> None:
    """Refuses what is no text; versions of `tokenizers` differ in what they make of it."""
    if not isinstance(text, str):
        message = f"a prompt must be a string, got {type(text).__name__}"
        raise ValidationError(message, parameter="prompt", value=text)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        message = "the prompt is not valid Unicode: it holds a lone surrogate"
        raise ValidationError(message, parameter="prompt") from error


def _load_backend(folder: Path, config: Mapping[str, Any]) -> tokenizers.Tokenizer:
    from tokenizers import Tokenizer as Backend

    path = folder / "tokenizer.json"
    try:
        if path.is_file():
            return Backend.from_file(str(path))
        if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            return _byte_level_bpe(folder, bool(config.get("add_prefix_space", False)))
    except Exception as error:  # what `tokenizers` raises for a file it cannot read
        raise ModelLoadError(f"cannot load the tokenizer of {folder}: {error}") from error
    for name in ("tokenizer.model", "spm.model"):
        if (folder / name).is_file():
            raise ModelLoadError(
                f"{folder} has a {name} but no tokenizer.json: write one with transformers "
                "(AutoTokenizer.from_pretrained(folder).save_pretrained(folder)), or pass "
                "tokenizer= a folder or hub id that has one"
            )
    raise ModelLoadError(
        f"{folder} has no tokenizer: looked for tokenizer.json, and for vocab.json with "
        "merges.txt; pass tokenizer=, or skip_tokenizer_init=True to work with token ids only"
    )


def _byte_level_bpe(folder: Path, add_prefix_space: bool) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer from the two files it was published as."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, pre_tokenizers, processors

    model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    backend = Backend(model)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.ByteLevel(trim_offsets=False)
    return backend


def _add_missing_tokens(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """Adds tokens that only `tokenizer_config.json` knows."""
    from tokenizers import AddedToken

    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    wanted: dict[str, AddedToken] = {}
    listed = config.get("added_tokens_decoder") or {}
    for _, token in sorted(listed.items(), key=lambda item: int(item[0])):
        flags = ("lstrip", "rstrip", "single_word", "normalized", "special")
        options = {flag: bool(token[flag]) for flag in flags if flag in token}
        wanted[token["content"]] = AddedToken(token["content"], **options)
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or []
    extra = extra.values() if isinstance(extra, Mapping) else extra
    for text in (*named.values(), *(_content(token) for token in extra)):
        if text is not None:
            wanted.setdefault(text, AddedToken(text, special=True, normalized=False))
    backend.add_tokens([token for text, token in wanted.items() if text not in known])


def _set_bos_eos(
    backend: tokenizers.Tokenizer, config: Mapping[str, Any], named: Mapping[str, str]
) -> None:
    """`add_bos_token` and `add_eos_token`, where given, decide what is put around a text."""
    if "add_bos_token" not in config and "add_eos_token" not in config:
        return
    from tokenizers import processors

    bos = named.get("bos_token") if config.get("add_bos_token") else None
    eos = named.get("eos_token") if config.get("add_eos_token") else None
    before, after = [bos] if bos else [], [eos] if eos else []
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        pair=[*before, "$A", *after, *(f"{token}:1" for token in before), "$B:1"]
        + [f"{token}:1" for token in after],
        special_tokens=[(token, backend.token_to_id(token)) for token in {*before, *after}],
    )


def _content(token: Any) -> str | None:
    """A special token's text: given as a string, or as the fields of an added token."""
    content = token.get("content") if isinstance(token, Mapping) else token
    return content if isinstance(content, str) else None


def _named_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    found = ((name, _content(config.get(name))) for name in _NAMED_TOKENS)
    return {name: text for name, text in found if text is not None}


def _chat_templates(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Chat templates by name: from a file of their own, else from the settings."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return {"default": path.read_text(encoding="utf-8")}
    beside = read_json_object(folder / "chat_template.json")
    template = config.get("chat_template") or beside.get("chat_template")
    if isinstance(template, str):
        return {"default": template}
    return {item["name"]: item["template"] for item in template or ()}
