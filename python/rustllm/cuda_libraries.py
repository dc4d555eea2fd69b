"""NVIDIA's libraries as pip installs them, where no dynamic linker looks.

The engine opens them by name. A library that the process has loaded already, from wherever it is,
is found so; this module loads those in the packages `nvidia-cublas` and `nvidia-cuda-nvrtc`.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from rustllm.logger import logger

LIBRARIES = (
    "libcublasLt.so.13",
    "libcublas.so.13",
    # The compiler opens its other half by name, too.
    "libnvrtc-builtins.so.13*",
    "libnvrtc.so.13",
)
"""File names, as patterns, in an order in which none needs a later one."""


def has_cuda_driver() -> bool:
    """Whether the driver's library is there; what it drives is not asked."""
    return _opens("libcuda.so.1")


def load_cuda_libraries() -> list[Path]:
    """Loads the libraries that pip has installed and this process has not loaded yet.

    Returns:
        The files loaded now. A library that is nowhere is left out: the engine says so if it needs
        it.
    """
    loaded = []
    for path in _installed():
        if _opens(path.name, os.RTLD_NOLOAD):
            continue
        try:
            ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except OSError as error:
            logger.warning("%s cannot be loaded: %s", path, error)
        else:
            loaded.append(path)
    return loaded


def prepare_device(device: str) -> None:
    """Loads what an engine on `device` opens by name: nothing where there is no CUDA driver."""
    if device == "auto" or device.startswith("cuda"):
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError:
            return
        load_cuda_libraries()


def _installed() -> Iterator[Path]:
    spec = importlib.util.find_spec("nvidia")
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    for pattern in LIBRARIES:
        for folder in folders:
            yield from sorted(Path(folder, "cu13", "lib").glob(pattern))


def _opens(name: str, mode: int = 0) -> bool:
    try:
        ctypes.CDLL(name, mode=mode)
    except OSError:
        return False
    return True
