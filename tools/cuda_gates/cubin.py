"""What `cuobjdump` and a PTX file tell of compiled kernels."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class CompiledKernel:
    """A kernel of a cubin."""

    registers: int
    stack_bytes: int
    local_bytes: int
    argument_bytes: list[int] = field(default_factory=list)
    instructions: set[str] = field(default_factory=set)
    """Names of its instructions, without what follows their first dot: `HMMA`, `LDG`."""


class Cuobjdump:
    """The program, from the folder it is in."""

    def __init__(self, folder: Path) -> None:
        self._program = folder / "cuobjdump"

    def extract(self, fatbin: Path, folder: Path) -> None:
        """Writes the cubins and the PTX of a fatbin, each a file named after its architecture."""
        folder.mkdir(parents=True, exist_ok=True)
        for kind in ("-xelf", "-xptx"):
            self._run(kind, "all", fatbin.resolve(), cwd=folder)

    def kernels(self, cubin: Path) -> dict[str, CompiledKernel]:
        """The kernels of a cubin, by name."""
        kernels = {
            name: CompiledKernel(int(registers), int(stack), int(local))
            for name, registers, stack, local in re.findall(
                r"Function (\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)",
                self._run("-res-usage", cubin),
            )
        }
        for name, sizes in _argument_bytes(self._run("-elf", cubin)).items():
            kernels[name].argument_bytes = sizes
        for section in self._run("-sass", cubin).split("Function : ")[1:]:
            name, _, code = section.partition("\n")
            # An instruction: its address, a predicate or none, its name.
            names = re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_]*)", code)
            kernels[name.strip()].instructions = set(names)
        return kernels

    def _run(self, *arguments: str | Path, cwd: Path | None = None) -> str:
        command = [self._program, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, cwd=cwd).stdout


def _argument_bytes(elf: str) -> dict[str, list[int]]:
    arguments: dict[str, list[int]] = {}
    for section in re.split(r"^\.nv\.info\.", elf, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        body = re.split(r"^\.", body, maxsplit=1, flags=re.MULTILINE)[0]
        found = re.findall(r"Ordinal : 0x([0-9a-f]+).*?Size    : 0x([0-9a-f]+)", body)
        sizes = sorted((int(ordinal, 16), int(size, 16)) for ordinal, size in found)
        arguments[name.strip()] = [size for _, size in sizes]
    return arguments


def ptx_argument_bytes(ptx: str) -> dict[str, list[int]]:
    """The sizes of the arguments of every kernel in a PTX file."""
    kernels = re.findall(r"\.visible \.entry (\w+)\(([^)]*)\)", ptx)
    parameter = re.compile(r"\.param (?:\.align \d+ )?\.[a-z](\d+) \w+(?:\[(\d+)\])?")
    return {
        name: [int(bits) // 8 * int(count or 1) for bits, count in parameter.findall(parameters)]
        for name, parameters in kernels
    }
