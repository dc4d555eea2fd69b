"""Starting an engine: the model's folder, tokenizer and defaults, and the Rust engine itself."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rustllm._core import Engine
from rustllm.cuda_libraries import has_cuda_driver, load_cuda_libraries
from rustllm.engine_args import DEFAULT_MODEL, EngineArgs
from rustllm.errors import ValidationError
from rustllm.generation_config import default_sampling_fields, end_of_sequence_ids
from rustllm.hub import resolve_model, resolve_tokenizer
from rustllm.json_files import read_json_object
from rustllm.logger import logger
from rustllm.sampling_params import SamplingParams
from rustllm.tokenizer import Tokenizer

__all__ = ["LoadedModel", "load_model"]


@dataclass(frozen=True)
class LoadedModel:
    """A running engine and what belongs to its model."""

    args: EngineArgs
    folder: Path
    engine: Engine
    tokenizer: Tokenizer | None
    """`None` with `skip_tokenizer_init`."""
    default_sampling_fields: dict[str, Any]
    """What `generation_config.json` sets, by the names of `SamplingParams`."""
    chat_template: str | None
    """The template given as an engine argument; `None` for the model's own."""
    max_model_len: int
    """Longest prompt plus completion, in tokens."""

    def default_sampling_params(self) -> SamplingParams:
        """Sampling parameters for requests that bring none."""
        return SamplingParams(**self.default_sampling_fields)

    @property
    def is_pooling(self) -> bool:
        """Whether the model makes vectors and scores of prompts instead of generating."""
        return self.engine.model_info.supported_tasks != ["generate"]

    def config(self) -> dict[str, Any]:
        """The fields of `config.json`, those of `hf_overrides` before them."""
        return {**read_json_object(self.folder / "config.json"), **(self.args.hf_overrides or {})}

    @property
    def labels(self) -> dict[int, str]:
        """The names of the classes, by number; `LABEL_0` and so on where nothing names them."""
        count = self.engine.model_info.num_labels or 0
        given = self.config().get("id2label") or {}
        names = {int(number): str(name) for number, name in given.items()}
        return {number: names.get(number, f"LABEL_{number}") for number in range(count)}

    def require_tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            ValidationError: the engine was started without one.
        """
        if self.tokenizer is None:
            raise ValidationError(
                "there is no tokenizer: the engine was started with skip_tokenizer_init=True",
                parameter="skip_tokenizer_init",
                value=True,
            )
        return self.tokenizer


def load_model(args: EngineArgs) -> LoadedModel:
    """Finds, and if need be downloads, the model that `args` name, and starts an engine on it.

    Raises:
        ModelLoadError: a model that cannot be found or loaded.
        ValidationError: an argument out of range.
    """
    folder = resolve_model(
        args.model, revision=args.revision, token=args.hf_token, cache_dir=args.download_dir
    )
    tokenizer = None
    if not args.skip_tokenizer_init:
        tokenizer = Tokenizer.from_folder(_tokenizer_folder(args, folder))
    defaults = default_sampling_fields(args, folder)
    chat_template = _read_chat_template(args.chat_template)
    with _LoadingBar() as bar:
        engine = _start_engine(args, folder, tokenizer, bar)
    info = engine.model_info
    if info.why_not_cuda is not None:
        logger.info("device=auto is the CPU: %s", info.why_not_cuda)
    max_model_len = info.max_model_len
    return LoadedModel(args, folder, engine, tokenizer, defaults, chat_template, max_model_len)


def _tokenizer_folder(args: EngineArgs, folder: Path) -> Path:
    if args.tokenizer is None and args.tokenizer_revision is None:
        return folder
    name = args.tokenizer or args.model or DEFAULT_MODEL
    of_model = args.revision if name == args.model else None
    return resolve_tokenizer(
        name,
        revision=args.tokenizer_revision or of_model,
        token=args.hf_token,
        cache_dir=args.download_dir,
    )


def _start_engine(
    args: EngineArgs,
    folder: Path,
    tokenizer: Tokenizer | None,
    bar: _LoadingBar,
) -> Engine:
    overrides = None if args.hf_overrides is None else json.dumps(args.hf_overrides)
    pooler_config = None if args.pooler_config is None else json.dumps(args.pooler_config)
    quantization_options = args.quantization_config or {}
    if args.device.startswith("cuda") or (args.device == "auto" and has_cuda_driver()):
        load_cuda_libraries()
    return Engine(
        folder,
        runner=args.runner,
        convert=args.convert,
        pooler_config=pooler_config,
        dtype=args.dtype,
        quantization=args.quantization,
        quantization_group_size=quantization_options.get("group_size"),
        quantization_symmetric=quantization_options.get("symmetric"),
        kv_cache_dtype=args.kv_cache_dtype,
        device=args.device,
        deterministic=args.deterministic,
        enforce_eager=args.enforce_eager,
        async_scheduling=args.async_scheduling,
        max_model_len=_size(args.max_model_len),
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=_size(args.max_num_batched_tokens),
        block_size=args.block_size,
        num_gpu_blocks_override=args.num_gpu_blocks_override,
        kv_cache_memory_bytes=_size(args.kv_cache_memory_bytes),
        gpu_memory_utilization=args.gpu_memory_utilization,
        enable_prefix_caching=args.enable_prefix_caching,
        scheduling_policy=args.scheduling_policy,
        seed=args.seed,
        num_threads=args.num_threads,
        max_logprobs=args.max_logprobs,
        logprobs_mode=args.logprobs_mode,
        hf_overrides=overrides,
        eos_token_ids=end_of_sequence_ids(args, folder, tokenizer),
        progress=bar.progress,
        note=bar.note,
    )


def _size(value: int | str | None) -> int | None:
    """`EngineArgs` has read the spellings, so that only numbers are left."""
    return None if value is None else int(value)


def _read_chat_template(chat_template: str | None) -> str | None:
    """The Jinja source given, or that in the file named; other names are the tokenizer's."""
    if chat_template is None or any(char in chat_template for char in "{}\n"):
        return chat_template
    path = Path(chat_template).expanduser()
    return path.read_text(encoding="utf-8") if path.is_file() else chat_template


class _LoadingBar:
    """Shows how far loading is, on a terminal, and only if it takes a while."""

    def __init__(self) -> None:
        self._bar: Any = None
        self.progress: Callable[[int, int], None] | None = (
            self._update if sys.stderr.isatty() else None
        )

    def __enter__(self) -> _LoadingBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def note(self, line: str) -> None:
        """Logs which device is used and what its memory is planned for; shows it on a terminal."""
        logger.info(line)
        if sys.stderr.isatty() and not logger.isEnabledFor(logging.INFO):
            print(line, file=sys.stderr)

    def _update(self, done: int, total: int) -> None:
        if self._bar is None:
            from tqdm import tqdm  # type: ignore[import-untyped]

            self._bar = tqdm(
                desc="Loading weights", total=total, unit="B", unit_scale=True, delay=1, leave=False
            )
        self._bar.update(done - self._bar.n)
