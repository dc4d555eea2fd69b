"""From a model argument to a folder: the model in the wheel, a local one, or one of the hub."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any, Final

from rustllm.engine_args import DEFAULT_MODEL
from rustllm.errors import ModelLoadError

__all__ = ["default_model_folder", "resolve_model", "resolve_tokenizer"]

_TOKENIZER_FILES: Final = ("*.json", "*.jinja", "merges.txt", "tokenizer.model")

_MODEL_FILES: Final = (*_TOKENIZER_FILES, "*.safetensors")

_NEVER: Final = ("*/*", "consolidated*.safetensors")
"""Subfolders hold other formats (onnx, original), consolidated files the same weights once more."""

_MODULE_FOLDER: Final = re.compile(r"\w[\w.-]*", re.ASCII)

_HUB_ID: Final = re.compile(r"\w[\w.-]*(/[\w.-]+)?", re.ASCII)


def default_model_folder() -> Path:
    """The folder of the model inside the wheel.

    Raises:
        ModelLoadError: this build has none.
    """
    folder = Path(__file__).parent / "default_model"
    if not (folder / "config.json").is_file():
        raise ModelLoadError(
            "this build of rustllm has no default model: name a model folder or a hub id"
        )
    return folder


def resolve_model(
    model: str | os.PathLike[str] | None,
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder of a model, downloaded if it is the hub's.

    Args:
        model: `default` or `None` for the model in the wheel, an existing folder, or a hub id.
        revision: Branch, tag or commit, for a hub id.
        token: Hub token; `True` for the stored one, `None` for the stored one if there is one.
        cache_dir: Hub cache, if not the usual one.

    Raises:
        ModelLoadError: no such model, or it cannot be reached; the message says what was tried.
    """
    if model is None or model == DEFAULT_MODEL:
        return default_model_folder()
    local = _local_folder(model)
    if local is not None:
        return local
    folder = _download(str(model), _MODEL_FILES, revision, token, cache_dir)
    modules = _module_files(folder)
    if modules:  # of the same commit, whose name the hub's cache gives its folders
        folder = _download(str(model), modules, folder.name, token, cache_dir, never=())
    if not any(folder.glob("*.safetensors")):
        raise ModelLoadError(
            f"{model} on the hub has no *.safetensors at its top level; "
            "weights in other formats cannot be loaded"
        )
    return folder


def resolve_tokenizer(
    tokenizer: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """The folder of a tokenizer; of a hub model only the small files are downloaded.

    Raises:
        ModelLoadError: as `resolve_model`.
    """
    if tokenizer == DEFAULT_MODEL:
        return default_model_folder()
    local = _local_folder(tokenizer)
    return local or _download(str(tokenizer), _TOKENIZER_FILES, revision, token, cache_dir)


def _local_folder(model: str | os.PathLike[str]) -> Path | None:
    """The folder, if there is one; `None` if the name may be a hub id."""
    path = Path(model).expanduser()
    if model and path.is_dir():
        return path
    if path.is_file():
        raise ModelLoadError(f"{path} is a file: name the folder that holds the model")
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return None
    raise ModelLoadError(
        f"{str(model)!r} is neither an existing folder nor a hub id such as 'organization/name'"
    )


def _module_files(folder: Path) -> tuple[str, ...]:
    """The files of a sentence-transformers model's further modules, which have folders."""
    try:
        modules = json.loads((folder / "modules.json").read_text(encoding="utf-8"))
        paths = [module["path"] for module in modules]
    except FileNotFoundError:
        return ()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelLoadError(f"cannot read {folder / 'modules.json'}: {error!r}") from error
    names = [path for path in paths if isinstance(path, str) and _MODULE_FOLDER.fullmatch(path)]
    return tuple(f"{name}/{ending}" for name in names for ending in ("*.json", "*.safetensors"))


def _download(
    model: str,
    patterns: tuple[str, ...],
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    *,
    never: tuple[str, ...] = _NEVER,
) -> Path:
    import huggingface_hub
    from huggingface_hub.utils.tqdm import tqdm

    class TerminalBar(tqdm):
        """The hub's progress bar, quiet where nobody watches."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = kwargs.get("disable") or None
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]

    try:
        folder = huggingface_hub.snapshot_download(
            model,
            revision=revision,
            token=token,
            cache_dir=None if cache_dir is None else str(cache_dir),
            allow_patterns=list(patterns),
            ignore_patterns=list(never),
            tqdm_class=TerminalBar,
        )
    except Exception as error:  # whatever the hub's client, its HTTP library or the disk raise
        raise ModelLoadError(_explain(model, revision, error)) from error
    return Path(folder)


def _explain(model: str, revision: str | None, error: Exception) -> str:
    """What went wrong, and what to do about it."""
    from huggingface_hub import constants, errors

    at = f" at revision {revision!r}" if revision else ""
    tried = f"{model!r} is no folder here, and on the hub ({constants.ENDPOINT})"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{tried} access to it is restricted: accept its terms at "
            f"{constants.ENDPOINT}/{model}, then give a token (hf_token=, HF_TOKEN or "
            "`hf auth login`)"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{tried} it has no revision {revision or 'main'!r}"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{tried} it does not exist, or is private and needs a token (hf_token= or HF_TOKEN)"
    if isinstance(error, errors.HFValidationError):
        return f"{model!r} is no folder here and not a valid hub id: {error}"
    if isinstance(error, errors.LocalEntryNotFoundError):
        if constants.HF_HUB_OFFLINE:
            return (
                f"{model!r}{at} is no folder here and not, or not completely, in the hub cache, "
                "and downloads are off (HF_HUB_OFFLINE)"
            )
        cause = error.__cause__ or error
        return (
            f"{model!r}{at} is no folder here and not, or not completely, in the hub cache, and "
            f"the hub ({constants.ENDPOINT}) cannot be reached: {type(cause).__name__}: {cause}"
        )
    return f"{tried} it cannot be downloaded{at}: {type(error).__name__}: {error}"
