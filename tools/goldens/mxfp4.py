"""MXFP4: blocks of 32 numbers, each of four bits, with a common power of two.

References are computed from weights that MXFP4 has exactly; then the file is packed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

BLOCK = 32
_POSITIVE = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0], np.float32)
_VALUES = np.concatenate([_POSITIVE, -_POSITIVE])

Bytes = NDArray[np.uint8]


def is_packed(name: str) -> bool:
    """Whether gpt-oss has the tensor in MXFP4."""
    return name.endswith((".experts.gate_up_proj", ".experts.down_proj"))


def quantized(weights: NDArray[np.float32]) -> tuple[Bytes, Bytes]:
    """`[experts, in, out]` as blocks `[experts, out, in / 32, 16]` and scales without the 16."""
    rows = weights.transpose(0, 2, 1)
    blocks = rows.reshape(*rows.shape[:2], -1, BLOCK)
    exponents = np.floor(np.log2(np.abs(blocks).max(-1))) - 2
    scaled = blocks / np.exp2(exponents)[..., None]
    codes = np.abs(scaled[..., None] - _VALUES).argmin(-1).astype(np.uint8)
    return codes[..., 0::2] | codes[..., 1::2] << 4, (exponents + 127).astype(np.uint8)


def dequantized(blocks: Bytes, scales: Bytes) -> NDArray[np.float32]:
    """The inverse of `quantized`, on numbers that it has exactly."""
    values = np.stack([_VALUES[blocks & 15], _VALUES[blocks >> 4]], -1)
    factors = np.exp2(scales.astype(np.float32) - 127)[..., None]
    rows = (values.reshape(*scales.shape, BLOCK) * factors).reshape(*scales.shape[:2], -1)
    return np.ascontiguousarray(rows.transpose(0, 2, 1), np.float32)


def pack_folder(folder: Path) -> None:
    """Replace a folder's experts by their packed form, and say so in its configurations."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name in [name for name in tensors if is_packed(name)]:
        weights = tensors.pop(name).numpy()
        blocks, scales = quantized(weights)
        if not np.array_equal(dequantized(blocks, scales), weights):
            raise RuntimeError(f"{folder.name}: {name} is not what MXFP4 has")
        tensors[f"{name}_blocks"] = torch.from_numpy(blocks)
        tensors[f"{name}_scales"] = torch.from_numpy(scales)
    save_file(tensors, path, metadata={"format": "pt"})
    for config in (folder / "config.json", folder / "config.other.json"):
        fields = json.loads(config.read_text()) | {"quantization_config": {"quant_method": "mxfp4"}}
        config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
