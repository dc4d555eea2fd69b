"""Writing `reference.json` and its like: readable JSON that keeps every bit of a float32."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np


def write_json(path: Path, value: Any) -> None:
    """Write `value`; lists of plain numbers or strings stay on one line, the file is ASCII."""
    path.write_text(_dumps(value, "") + "\n", encoding="ascii")


def _dumps(value: Any, indent: str) -> str:
    inner = indent + "  "
    if isinstance(value, np.ndarray):
        value = list(value)
    if isinstance(value, dict) and value:
        rows = [f"{inner}{json.dumps(key)}: {_dumps(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(rows) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        rows = [inner + _dumps(item, inner) for item in value]
        return "[\n" + ",\n".join(rows) + f"\n{indent}]"
    if isinstance(value, list):
        return "[" + ", ".join(_dumps(item, inner) for item in value) + "]"
    return _float32(value) if isinstance(value, np.float32) else json.dumps(value)


def _float32(value: np.float32) -> str:
    """The shortest decimal that reads back, through a double, as the same float32."""
    text = str(value)
    if not np.isfinite(value) or np.float32(float(json.loads(text))) != value:
        raise ValueError(f"{value!r} cannot be written as JSON")
    return text
