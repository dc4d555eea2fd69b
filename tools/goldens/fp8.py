"""FP8 (E4M3): a byte a number, a scale for each block of 16 rows and columns.

References are computed from the weights that the bytes stand for, rounded to bfloat16 as they are
when they are unpacked; then the file is packed.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

BLOCK = 16
_LARGEST = 448.0


def is_packed(name: str) -> bool:
    """Whether FP8 checkpoints have the tensor in FP8: a projection of a layer."""
    return ".layers." in name and name.endswith("_proj.weight")


def _spread(scales: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The scale of each element."""
    rows = scales.repeat_interleave(BLOCK, 0)[: weights.shape[0]]
    return rows.repeat_interleave(BLOCK, 1)[:, : weights.shape[1]]


def quantized(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The bytes, and the scales, `[rows / 16, columns / 16]` rounded up."""
    blocks = [
        torch.stack([part.abs().max() for part in row.split(BLOCK, 1)])
        for row in weights.split(BLOCK, 0)
    ]
    scales = torch.stack(blocks) / _LARGEST
    return (weights / _spread(scales, weights)).to(torch.float8_e4m3fn), scales


def dequantized(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """What the bytes stand for, rounded to bfloat16."""
    return (codes.float() * _spread(scales, codes)).bfloat16().float()


def pack_folder(folder: Path, originals: dict[str, torch.Tensor]) -> None:
    """Replace a folder's projections by the packed `originals`; say so in its configurations."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    for name, weights in originals.items():
        codes, scales = quantized(weights)
        if not torch.equal(dequantized(codes, scales), tensors[name]):
            raise RuntimeError(f"{folder.name}: {name} is not what FP8 has")
        tensors[name], tensors[f"{name}_scale_inv"] = codes, scales
    save_file(tensors, path, metadata={"format": "pt"})
    method = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [BLOCK, BLOCK]}
    for config in (folder / "config.json", folder / "config.other.json"):
        fields = json.loads(config.read_text()) | {"quantization_config": method}
        config.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n")
