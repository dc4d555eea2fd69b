"""What every compiled kernel must be, as far as it can be told without a GPU."""

from __future__ import annotations

from pathlib import Path

from gated import Gated

CUBINS = ("sm_80", "sm_89", "sm_90a")
TENSOR_CORE_INSTRUCTIONS = ("HMMA", "IMMA")
LOCAL_MEMORY_INSTRUCTIONS = {"LDL", "STL"}


def test_every_file_is_compiled_for_every_architecture_by_both_compilers(gated: Gated) -> None:
    """NVRTC is given the embedded headers, and no folder of others."""
    files = {path.stem for path in (Path(__file__).parents[2] / "cuda").glob("*.cu")}
    assert set(gated.files) == files, "files of which nothing is launched"
    assert set(gated.cubins) == {
        f"{compiler} {file} {architecture}"
        for compiler in ("nvcc", "nvrtc")
        for file in files
        for architecture in CUBINS
    }
    assert set(gated.ptx) == {f"nvcc {file} sm_80" for file in files} | {
        f"nvrtc {file} compute_80" for file in files
    }


def test_kernels_take_the_arguments_they_are_launched_with(gated: Gated) -> None:
    """A launch passes bytes: names, numbers and sizes are all that can be wrong unseen."""
    for image, kernels in gated.cubins.items():
        arguments = {name: kernel.argument_bytes for name, kernel in kernels.items()}
        assert arguments == _launched(gated, image), image
    for image, arguments in gated.ptx.items():
        assert arguments == _launched(gated, image), image


def test_no_kernel_keeps_values_in_local_memory(gated: Gated) -> None:
    """Registers that do not fit are spilled to it, and it is as slow as all memory."""
    spilled = [
        f"{image} {name}: {kernel.stack_bytes} bytes of stack, {kernel.local_bytes} of local memory"
        for image, kernels in gated.cubins.items()
        for name, kernel in kernels.items()
        if kernel.stack_bytes
        or kernel.local_bytes
        or kernel.instructions & LOCAL_MEMORY_INSTRUCTIONS
    ]
    assert not spilled, "\n".join(spilled)


def test_tensor_cores_are_used_where_they_are_said_to_be(gated: Gated) -> None:
    """Neither does a kernel lose them unnoticed, nor is one left out of the list."""
    lines = Path(__file__).with_name("tensor_cores.txt").read_text().splitlines()
    listed = {line for line in lines if line and not line.startswith("#")}
    for architecture in CUBINS:
        found = {
            f"{instruction} {name}"
            for image, kernels in gated.cubins.items()
            if image.startswith("nvcc ") and image.endswith(architecture)
            for name, kernel in kernels.items()
            for instruction in TENSOR_CORE_INSTRUCTIONS
            if instruction in kernel.instructions
        }
        assert found == listed, architecture


def test_instructions_are_read(gated: Gated) -> None:
    """A kernel that adds and stores, so that an empty answer elsewhere means something."""
    for architecture in CUBINS:
        instructions = gated.cubins[f"nvcc elementwise {architecture}"]["add_assign"].instructions
        assert {"FADD", "LDG", "STG", "EXIT"} <= instructions


def _launched(gated: Gated, image: str) -> dict[str, list[int]]:
    file = image.split()[1]
    return {name: gated.launches[name] for name in gated.files[file]}
