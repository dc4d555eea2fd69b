"""Bytes that a Python package and all it needs take on disk."""

from __future__ import annotations

import re
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from typing import Final

GPU_ONLY: Final = re.compile(r"(nvidia|cuda|triton)(-|$)")
"""Packages that a CPU needs nothing of; a build of torch for the CPU comes without them."""

GPU_LIBRARY: Final = re.compile(r"/lib(torch_cuda|torch_nvshmem|c10_cuda)[^/]*$")
"""The same of files."""


def closure(name: str) -> dict[str, Distribution]:
    """A distribution and all installed ones that it requires, those of extras apart."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        key = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if key in found or GPU_ONLY.match(key):
            continue
        try:
            found[key] = distribution(key)
        except PackageNotFoundError:
            continue
        for requirement in found[key].requires or []:
            match = re.match(r"[A-Za-z0-9._-]+", requirement)
            if match and "extra ==" not in requirement:
                waiting.append(match.group())
    return found


def installed_bytes(name: str) -> int:
    """Size of the files of a distribution and of those it requires."""
    total = 0
    for one in closure(name).values():
        for file in one.files or []:
            path = one.locate_file(file)
            if not GPU_LIBRARY.search(str(path)):
                try:
                    total += path.stat().st_size  # type: ignore[attr-defined]
                except OSError:
                    continue
    return total
