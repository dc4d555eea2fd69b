"""`generation_config.json`: a model's own sampling defaults, and the tokens that end its texts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from rustllm.engine_args import EngineArgs
from rustllm.errors import ValidationError
from rustllm.json_files import read_json_object
from rustllm.tokenizer import Tokenizer

__all__ = ["default_sampling_fields", "end_of_sequence_ids"]

_NAMES: Final[Mapping[str, str]] = {
    "repetition_penalty": "repetition_penalty",
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "max_new_tokens": "max_tokens",
}
"""Fields of the file that are sampling defaults, and what `SamplingParams` calls them."""


def default_sampling_fields(args: EngineArgs, folder: Path) -> dict[str, Any]:
    """Sampling parameters that requests without any get, by their `SamplingParams` names."""
    config = {**_chosen_config(args, folder), **args.override_generation_config}
    return {
        ours: config[theirs] for theirs, ours in _NAMES.items() if config.get(theirs) is not None
    }


def end_of_sequence_ids(
    args: EngineArgs, folder: Path, tokenizer: Tokenizer | None
) -> list[int] | None:
    """The tokens that end a text: what the model's files list, and the tokenizer's own.

    Returns:
        Sorted ids, or `None` where nothing says more than the engine finds in the folder itself.
    """
    listed = args.override_generation_config.get("eos_token_id")
    if listed is None:
        listed = _chosen_config(args, folder).get("eos_token_id")
    if listed is None:
        listed = read_json_object(folder / "generation_config.json").get("eos_token_id")
    if listed is None:
        config = {**read_json_object(folder / "config.json"), **(args.hf_overrides or {})}
        listed = config.get("eos_token_id")
    ids = {listed} if isinstance(listed, int) else set(listed or ())
    if tokenizer is not None and tokenizer.eos_token_id is not None:
        ids.add(tokenizer.eos_token_id)
    if not all(isinstance(token_id, int) for token_id in ids):
        raise ValidationError(
            f"eos_token_id must be a token id or a list of them, got {listed!r}",
            parameter="eos_token_id",
            value=listed,
        )
    return sorted(ids) or None


def _chosen_config(args: EngineArgs, folder: Path) -> dict[str, Any]:
    if args.generation_config in ("vllm", "rustllm"):
        return {}
    if args.generation_config == "auto":
        return read_json_object(folder / "generation_config.json")
    path = Path(args.generation_config).expanduser()
    path = path / "generation_config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValidationError(
            "generation_config must be auto, vllm, or a folder with a generation_config.json, "
            f"got {args.generation_config!r}",
            parameter="generation_config",
            value=args.generation_config,
        )
    return read_json_object(path)
