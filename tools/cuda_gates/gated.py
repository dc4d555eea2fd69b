"""The kernels as the gates look at them."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from cubin import CompiledKernel, Cuobjdump, ptx_argument_bytes

ROOT = Path(__file__).parents[2]
BUILD = "cargo build --locked --workspace --exclude rustllm-py --example kernel_files"


@dataclass(frozen=True)
class Gated:
    """The kernels as the launch table has them and as two compilers made them."""

    launches: dict[str, list[int]]
    """The sizes of each kernel's arguments."""
    files: dict[str, set[str]]
    """The kernels of each file."""
    cubins: dict[str, dict[str, CompiledKernel]]
    """By `compiler file architecture`: the kernels of a cubin."""
    ptx: dict[str, dict[str, list[int]]]
    """By `compiler file architecture`: the sizes of the arguments of the kernels of a PTX file."""


def build(nvcc: Path, folder: Path) -> Gated:
    """Builds the kernels and lays them out in `folder`, with the programs beside `nvcc`."""
    libraries = {"LD_LIBRARY_PATH": str(nvcc.parents[1] / "lib")}
    subprocess.run([_kernel_files(nvcc), folder], check=True, env=os.environ | libraries)

    launches: dict[str, list[int]] = {}
    files: dict[str, set[str]] = {}
    for line in (folder / "launches.tsv").read_text().splitlines():
        file, entry, sizes = line.split("\t")
        launches[entry] = [int(size) for size in sizes.split()]
        files.setdefault(file, set()).add(entry)

    cuobjdump = Cuobjdump(nvcc.parent)
    for fatbin in (folder / "nvcc").glob("*.fatbin"):
        cuobjdump.extract(fatbin, folder / "nvcc")
    cubins, ptx = {}, {}
    for path in sorted(folder.glob("nv*/*")):
        # norm.sm_80.cubin is NVRTC's, norm.1.sm_80.cubin nvcc's.
        parts = path.name.split(".")
        key = f"{path.parent.name} {parts[0]} {parts[-2]}"
        if path.suffix == ".cubin":
            cubins[key] = cuobjdump.kernels(path)
        elif path.suffix == ".ptx":
            ptx[key] = ptx_argument_bytes(path.read_text())
    return Gated(launches, files, cubins, ptx)


def _kernel_files(nvcc: Path) -> Path:
    build = [*BUILD.split(), "--message-format=json-render-diagnostics"]
    environment = os.environ | {"RUSTLLM_NVCC": str(nvcc)}
    built = subprocess.run(
        build, cwd=ROOT, env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    messages = [json.loads(line) for line in built.stdout.splitlines()]
    (program,) = {message["executable"] for message in messages if message.get("executable")}
    return Path(program)
