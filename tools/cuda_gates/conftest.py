"""The fixture of the gates."""

from __future__ import annotations

import os
from pathlib import Path

import gated as kernels
import pytest


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> kernels.Gated:
    """The kernels, compiled by the nvcc that `RUSTLLM_NVCC` names."""
    return kernels.build(Path(os.environ["RUSTLLM_NVCC"]), tmp_path_factory.mktemp("kernels"))
