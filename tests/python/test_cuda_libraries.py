"""Libraries of a made-up `nvidia` package, in processes of their own: what is loaded stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

CUBLAS_LT, CUBLAS, BUILTINS, NVRTC = (
    "libcublasLt.so.13",
    "libcublas.so.13",
    "libnvrtc-builtins.so.13.0",
    "libnvrtc.so.13",
)
PRELUDE = """
import ctypes, json, sys
from rustllm.cuda_libraries import has_cuda_driver, load_cuda_libraries

def found(name):
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True

"""


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder of packages, with a namespace package `nvidia` of all four libraries."""
    for name in (CUBLAS_LT, CUBLAS, BUILTINS, NVRTC):
        make_library(tmp_path / "packages/nvidia/cu13/lib" / name)
    return tmp_path / "packages"


def make_library(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soname = f"-Wl,-soname,{path.name}"
    subprocess.run(["cc", "-shared", soname, "-x", "c", "/dev/null", "-o", str(path)], check=True)


def run(code: str, *arguments: str | Path, packages: Path) -> list[object]:
    path = os.pathsep.join([str(packages), *filter(None, sys.path)])
    result = subprocess.run(
        [sys.executable, "-c", PRELUDE + code, *arguments],
        env=os.environ | {"PYTHONPATH": path},
        check=True,
        capture_output=True,
        text=True,
    )
    return list(json.loads(result.stdout))


def test_installed_libraries_are_found_by_name_once_loaded(packages: Path) -> None:
    code = f"""
names = {[CUBLAS_LT, CUBLAS, BUILTINS, NVRTC]}
first = load_cuda_libraries()
print(json.dumps([
    [str(path) for path in first if path.is_relative_to(sys.argv[1])],
    [found(name) for name in names],
    len(load_cuda_libraries()),
]))
"""
    folder = packages / "nvidia/cu13/lib"
    loaded, found, again = run(code, packages, packages=packages)
    assert loaded == [str(folder / name) for name in (CUBLAS_LT, CUBLAS, BUILTINS, NVRTC)]
    assert found == [True] * 4
    assert again == 0


def test_a_library_that_the_process_has_is_left_alone(packages: Path, tmp_path: Path) -> None:
    """As when torch has been imported, which brings its own."""
    make_library(tmp_path / "torch" / NVRTC)
    code = """
ctypes.CDLL(sys.argv[1])
print(json.dumps([path.name for path in load_cuda_libraries()]))
"""
    loaded = run(code, tmp_path / "torch" / NVRTC, packages=packages)
    assert loaded == [CUBLAS_LT, CUBLAS, BUILTINS]


def test_what_is_missing_or_broken_is_left_out(packages: Path) -> None:
    folder = packages / "nvidia/cu13/lib"
    (folder / CUBLAS).unlink()
    (folder / CUBLAS_LT).write_text("no library")
    code = "print(json.dumps([path.name for path in load_cuda_libraries()]))"
    assert run(code, packages=packages) == [BUILTINS, NVRTC]


def test_no_package_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "nvidia").mkdir()
    code = "print(json.dumps([path.name for path in load_cuda_libraries()]))"
    assert run(code, packages=tmp_path) == []


def test_the_driver_is_found_by_name(tmp_path: Path) -> None:
    make_library(tmp_path / "libcuda.so.1")
    code = """
ctypes.CDLL(sys.argv[1])
print(json.dumps([has_cuda_driver()]))
"""
    assert run(code, tmp_path / "libcuda.so.1", packages=tmp_path) == [True]
