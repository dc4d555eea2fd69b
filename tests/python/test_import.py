"""`import rustllm` is quick: what is heavy is imported when it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import rustllm

HEAVY = ("numpy", "tokenizers", "huggingface_hub", "jinja2", "tqdm", "asyncio", "fastapi")


def modules_after(code: str) -> set[str]:
    program = f"{code}\nimport sys; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_import_loads_nothing_heavy() -> None:
    assert not modules_after("import rustllm") & {*HEAVY, "rustllm._core"}
    assert not modules_after("import rustllm; rustllm.SamplingParams()") & set(HEAVY)


@pytest.mark.parametrize("name", rustllm.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(rustllm, name) is not None
    assert name in dir(rustllm)


def test_unknown_names() -> None:
    with pytest.raises(AttributeError, match="module 'rustllm' has no attribute 'nothing'"):
        rustllm.nothing  # noqa: B018


def test_the_binary_raises_the_package_errors() -> None:
    from rustllm import _core, errors

    for name in ("RustllmError", "ValidationError", "ModelLoadError", "EngineDeadError"):
        assert getattr(_core, name) is getattr(errors, name)
