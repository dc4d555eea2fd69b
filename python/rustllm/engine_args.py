"""What an engine is started with: vLLM's names and defaults."""

from __future__ import annotations

import difflib
import os
import re
from dataclasses import dataclass, field, fields
from typing import Any, Final

from rustllm.errors import ValidationError
from rustllm.logger import warning_once
from rustllm.unsupported_args import IGNORED, NEUTRAL

__all__ = ["EngineArgs", "parse_size"]

DEFAULT_MODEL: Final = "default"
"""The model inside the wheel."""

_POWERS: Final = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}

_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([kKmMgGtT]?)(iB|ib|B|b)?")


def parse_size(name: str, value: int | str) -> int:
    """Reads a number a person writes: `32k` is 32000, `32K` 32768, `2GB` 2e9, `2GiB` 2 * 2**30.

    Raises:
        ValidationError: not such a number.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is not None:
        number, letter, unit = match.groups()
        if unit is None:
            base = 1024 if letter.isupper() else 1000
        else:
            base = 1024 if unit.startswith("i") else 1000
        size = float(number) * base ** _POWERS[letter.lower()]
        if size == int(size):
            return int(size)
    message = f"{name} must be a whole number such as 32768, 32k, 32K or 2GiB, got {value!r}"
    raise ValidationError(message, parameter=name, value=value)


@dataclass
class EngineArgs:
    """Arguments of an engine, by vLLM's names.

    Args:
        model: Folder of a Hugging Face model, or a hub id; `default` for the model in the wheel.
        runner: `generate`, `pooling` (embeddings, classes, scores), or `auto` for what the
            architecture is made for.
        convert: What a pooled model is used as: `embed`, `classify`, or `auto` and `none` for what
            its architecture says.
        pooler_config: How prompts are pooled, instead of what the model's folder says:
            `pooling_type` (`CLS`, `LAST`, `MEAN` or `MAX`) and `use_activation`.
        tokenizer: Folder or hub id of the tokenizer, if not the model's.
        tokenizer_mode: `auto` or `hf`.
        skip_tokenizer_init: Work with token ids only.
        trust_remote_code: Has no effect: no code of a model is ever run.
        dtype: `auto` (the checkpoint's), `float32` or `float`, `float16` or `half`, `bfloat16`.
        quantization: `int8` or `int4`: what linear layers are quantized to while they are loaded.
            Activations are quantized to eight bits, token by token. The output projection is kept
            in eight bits.
        quantization_config: Options of `int4`: `group_size` (32, 64 or 128 columns that share a
            scale; 32 if not given) and `symmetric` (`False` for groups with zero points).
        kv_cache_dtype: How keys and values are kept: `auto` (as the weights), `float32`, `float16`,
            `bfloat16`, or `int8`, half as large as 16 bits, with a scale for each token and head
            (`int8_per_token_head` means the same).
        revision: Branch, tag or commit of a hub model.
        tokenizer_revision: The same for the tokenizer; by default it comes with the model.
        download_dir: Cache folder of the hub, if not the usual one.
        hf_token: Token for the hub; `True` for the one stored by `hf auth login`.
        hf_overrides: Fields that replace those of `config.json`.
        max_model_len: Longest prompt plus completion, in tokens; may be written `32k`. `None`, -1
            and `auto` mean the model's own limit, or its first context where it computes longer
            ones with other positions (LongRoPE).
        max_num_seqs: Sequences that may run at once.
        max_num_batched_tokens: Tokens a step may compute, over all sequences. `None` means 2048, or
            `max_model_len` where a prompt is computed in one step (encoders) and that is more.
        block_size: Tokens that a block of the key/value cache holds.
        num_gpu_blocks_override: Number of cache blocks, whatever the memory.
        kv_cache_memory_bytes: Size of the cache, as a number or written `2GiB`.
        gpu_memory_utilization: On a GPU, the share of its memory that weights, activations and
            cache may take; on CPU, the share of free RAM that the cache may take.
        enable_prefix_caching: Reuse the cache of equal prompt beginnings.
        enable_chunked_prefill: Prompts are always computed in chunks where they must be.
        scheduling_policy: `fcfs` or `priority`.
        seed: Seed for requests that bring none.
        max_logprobs: Most `logprobs` a request may ask for; -1 for the whole vocabulary.
        logprobs_mode: `raw_logprobs`, `processed_logprobs`, `raw_logits` or `processed_logits`.
        served_model_name: The name, or names, the model has in the API of a server.
        generation_config: Where sampling defaults come from: `auto` for the model's folder,
            `vllm` for none (`rustllm` means the same), else a folder.
        override_generation_config: Sampling defaults that go before those.
        chat_template: Jinja source, or a file that holds it.
        device: `auto` (GPU 0 where it can be used, else the CPU), `cpu`, `cuda`,
            `cuda:<number>`, or `reference` for the slow implementation kernels are tested with.
        deterministic: On a GPU, whether answers may not depend on what they are batched with, at
            some cost. On CPU they never do.
        enforce_eager: On a GPU, launch every kernel by itself instead of capturing steps as graphs.
        async_scheduling: On a GPU, begin a step before the tokens of the one before it have
            reached the host. Answers are the same.
        num_threads: Compute threads; if not given, `OMP_NUM_THREADS`, else one for each core that
            the process may use.
        disable_log_stats: Leave out `RequestOutput.metrics`.

    Raises:
        ValidationError: a value that is no number where one must be, or not one of a few words.
    """

    model: str | os.PathLike[str] | None = DEFAULT_MODEL
    runner: str = "auto"
    convert: str = "auto"
    pooler_config: dict[str, Any] | None = None
    tokenizer: str | os.PathLike[str] | None = None
    tokenizer_mode: str = "auto"
    skip_tokenizer_init: bool = False
    trust_remote_code: bool = False
    dtype: str = "auto"
    quantization: str | None = None
    quantization_config: dict[str, Any] | None = None
    kv_cache_dtype: str = "auto"
    revision: str | None = None
    tokenizer_revision: str | None = None
    download_dir: str | os.PathLike[str] | None = None
    hf_token: str | bool | None = None
    hf_overrides: dict[str, Any] | None = None
    max_model_len: int | str | None = None
    max_num_seqs: int = 128
    max_num_batched_tokens: int | str | None = None
    block_size: int = 16
    num_gpu_blocks_override: int | None = None
    kv_cache_memory_bytes: int | str | None = None
    gpu_memory_utilization: float = 0.92
    enable_prefix_caching: bool = True
    enable_chunked_prefill: bool = True
    scheduling_policy: str = "fcfs"
    seed: int = 0
    max_logprobs: int = 20
    logprobs_mode: str = "raw_logprobs"
    served_model_name: str | list[str] | None = None
    generation_config: str = "auto"
    override_generation_config: dict[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    device: str = "auto"
    deterministic: bool = False
    enforce_eager: bool = False
    async_scheduling: bool = True
    num_threads: int | None = None
    disable_log_stats: bool = False

    def __post_init__(self) -> None:
        if self.model is None:
            self.model = DEFAULT_MODEL
        if self.max_model_len in (-1, "-1", "auto"):
            self.max_model_len = None
        for name in ("max_model_len", "max_num_batched_tokens", "kv_cache_memory_bytes"):
            value = getattr(self, name)
            if value is not None:
                setattr(self, name, parse_size(name, value))
        if self.tokenizer_mode not in ("auto", "hf"):
            raise ValidationError(
                f"tokenizer_mode must be auto or hf, got {self.tokenizer_mode!r}",
                parameter="tokenizer_mode",
                value=self.tokenizer_mode,
            )
        if self.hf_overrides is not None and not isinstance(self.hf_overrides, dict):
            raise ValidationError(
                "hf_overrides must be a dict of config.json fields, "
                f"got {type(self.hf_overrides).__name__}",
                parameter="hf_overrides",
                value=self.hf_overrides,
            )
        if self.pooler_config is not None and not isinstance(self.pooler_config, dict):
            raise ValidationError(
                f"pooler_config must be a dict, got {type(self.pooler_config).__name__}",
                parameter="pooler_config",
                value=self.pooler_config,
            )
        _check_quantization_config(self.quantization_config)
        if self.trust_remote_code:
            warning_once("trust_remote_code has no effect: no model code is ever run")
        if not self.enable_chunked_prefill:
            warning_once(
                "enable_chunked_prefill=False has no effect: prompts are cut where the token "
                "budget ends, and answers do not depend on it"
            )

    @classmethod
    def from_kwargs(cls, **kwargs: Any) -> EngineArgs:
        """Makes args from keyword arguments as vLLM takes them.

        Those that mean nothing here are let through, warned about or refused as
        `rustllm.unsupported_args` says.

        Raises:
            ValidationError: an argument that is refused, or that nobody knows.
        """
        known = {item.name for item in fields(cls)}
        for name, value in kwargs.items():
            if name not in known:
                _check_foreign(name, value, known)
        return cls(**{name: value for name, value in kwargs.items() if name in known})

    @property
    def served_model_names(self) -> list[str]:
        """The names a server knows the model by; the first is the one it answers with."""
        if isinstance(self.served_model_name, str):
            return [self.served_model_name]
        return list(self.served_model_name or [str(self.model)])


def _check_quantization_config(config: Any) -> None:
    """Checks names and types; which go with what, and their values, the engine checks."""
    allowed = {"group_size": "a positive whole number", "symmetric": "True or False"}
    if config is not None and not isinstance(config, dict):
        raise ValidationError(
            f"quantization_config must be a dict, got {type(config).__name__}",
            parameter="quantization_config",
            value=config,
        )
    for name, value in (config or {}).items():
        if name not in allowed:
            raise ValidationError(
                f"quantization_config has the options group_size and symmetric, got {name!r}",
                parameter="quantization_config",
                value=name,
            )
        is_size = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if not (is_size if name == "group_size" else isinstance(value, bool)):
            raise ValidationError(
                f"quantization_config.{name} must be {allowed[name]}, got {value!r}",
                parameter=f"quantization_config.{name}",
                value=value,
            )


def _check_foreign(name: str, value: Any, known: set[str]) -> None:
    """Says what becomes of an argument that is vLLM's but not ours."""
    if name in NEUTRAL:
        accepted, reason = NEUTRAL[name]
        if value not in accepted:
            message = f"{name}={value!r} is not supported: {reason}"
            raise ValidationError(message, parameter=name, value=value)
    elif name in IGNORED:
        warning_once(f"{name} has no effect: {IGNORED[name]}")
    else:
        close = difflib.get_close_matches(name, [*known, *NEUTRAL, *IGNORED], n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        message = f"unknown engine argument {name!r}{hint}"
        raise ValidationError(message, parameter=name, value=value)
