"""`rustllm doctor`: what rustllm finds on this machine."""

import importlib.metadata
import json
import os
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rustllm
from rustllm import _core
from rustllm.cli.arguments import Parser
from rustllm.cuda_libraries import load_cuda_libraries
from rustllm.errors import RustllmError
from rustllm.hub import default_model_folder

LIBRARIES = (
    "numpy",
    "tokenizers",
    "huggingface_hub",
    "jinja2",
    "tqdm",
    "fastapi",
    "uvicorn",
    "pydantic",
)


def run(arguments: list[str]) -> int:
    """Prints the findings; 1 if rustllm cannot work like this."""
    parser = Parser("doctor", "Say what rustllm finds on this machine.")
    parser.add_argument("--json", action="store_true", help="as JSON")
    args = parser.parse(arguments)
    problems: list[str] = []
    findings = {
        "rustllm": rustllm.__version__,
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cpu": _cpu(problems),
        "memory": _memory(),
        "gpu": _gpu(),
        "models": _models(problems),
        "libraries": {name: _library_version(name, problems) for name in LIBRARIES},
        "problems": problems,
    }
    if args.json:
        print(json.dumps(findings, indent=2))
    else:
        print("\n".join(_lines(findings)))
    return 1 if problems else 0


def _cpu(problems: list[str]) -> dict[str, Any]:
    try:
        selected = _core.selected_isa()
    except RustllmError as error:
        selected = None
        problems.append(str(error))
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "model": _after_colon(Path("/proc/cpuinfo"), "model name") or platform.processor(),
        "cores": os.cpu_count(),
        "cores usable": len(affinity(0)) if affinity else os.cpu_count(),
        "cgroup limit": _cgroup_cpus(),
        "threads used": _core.default_num_threads(),
        "instruction sets": _core.available_isas(),
        "instruction set used": selected,
    }


def _memory() -> dict[str, Any]:
    meminfo = Path("/proc/meminfo")
    limit = _cgroup_value("memory.max", "memory/memory.limit_in_bytes")
    limited = limit is not None and limit.isdigit() and int(limit) < 1 << 60
    return {
        "total": _kib(_after_colon(meminfo, "MemTotal")),
        "available": _kib(_after_colon(meminfo, "MemAvailable")),
        "cgroup limit": _gib(int(limit)) if limited and limit else None,
    }


def _gpu() -> dict[str, Any]:
    load_cuda_libraries()
    info = _core.cuda_info()
    devices = {
        f"device {ordinal}": f"{device['name']}, compute capability "
        f"{_version(device['compute_capability'])}, {_gib(device['memory'])}"
        for ordinal, device in enumerate(info["devices"])
    }
    compiled = ", ".join(info["kernel_architectures"])
    return {
        "nvidia driver": _first_line(Path("/sys/module/nvidia/version")),
        "cuda": info["error"] or _version(info["cuda_version"]),
        **devices,
        "kernels": compiled or "source only: NVRTC compiles them where they first run",
        "cublasLt": "found" if info["cublas_lt"] else "not found",
        "nvrtc": _version(info["nvrtc"]) if info["nvrtc"] else "not found",
    }


def _version(parts: tuple[int, int]) -> str:
    return ".".join(map(str, parts))


def _models(problems: list[str]) -> dict[str, Any]:
    try:
        default = str(default_model_folder())
    except RustllmError as error:
        default = f"none: {error}"
        problems.append(str(error))
    from huggingface_hub import constants

    return {
        "architectures": _core.supported_architectures(),
        "default model": default,
        "hub cache": str(constants.HF_HUB_CACHE),
        "hub offline": bool(constants.HF_HUB_OFFLINE),
    }


def _library_version(name: str, problems: list[str]) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        problems.append(f"the Python package {name} is missing")
        return None


def _cgroup_cpus() -> float | None:
    """How many cores' worth of time the control group allows; `None` for no limit."""
    quota, _, period = (_cgroup_value("cpu.max", None) or "max").partition(" ")
    if not period:
        quota = _cgroup_value("", "cpu/cpu.cfs_quota_us") or "max"
        period = _cgroup_value("", "cpu/cpu.cfs_period_us") or ""
    if not (quota.isdigit() and period.isdigit()) or int(period) == 0:
        return None
    return int(quota) / int(period)


def _cgroup_value(v2: str, v1: str | None) -> str | None:
    """A setting of our control group, of either version of them."""
    root = Path("/sys/fs/cgroup")
    own = (_first_line(Path("/proc/self/cgroup")) or "").rpartition(":")[2].lstrip("/")
    places = [root / own / v2, root / v2] if v2 else []
    places += [root / v1] if v1 else []
    return next((line for place in places if (line := _first_line(place))), None)


def _first_line(path: Path) -> str | None:
    try:
        return path.read_text().split("\n", 1)[0].strip()
    except (OSError, UnicodeDecodeError):
        return None


def _after_colon(path: Path, key: str) -> str | None:
    """The value of the first line `key : value`."""
    try:
        lines = path.read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


def _kib(text: str | None) -> str | None:
    return _gib(int(text.split()[0]) * 1024) if text else None


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _lines(findings: dict[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in findings.items():
        if isinstance(value, dict):
            yield f"{indent}{name}"
            yield from _lines(value, indent + "  ")
            continue
        shown = ", ".join(map(str, value)) or "none" if isinstance(value, list) else value
        label = f"{indent}{name}"
        yield f"{label:<26}{'none' if shown is None else shown}"
