"""Reading the JSON files of a model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rustllm.errors import ModelLoadError

__all__ = ["read_json_object"]


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when there is no file.

    Raises:
        ModelLoadError: a file that cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelLoadError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ModelLoadError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content
