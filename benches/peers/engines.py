"""The engines that can be compared: which formats each has, and how its runner is started."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from workloads import KV_CACHE_GIB

FOLDERS: Final = {"M1": "qwen2.5-0.5b-shape", "M2": "llama-3.2-1b-shape"}
"""Folders of the models that `make_models.py` makes."""

OURS: Final = "rustllm"

PEERS: Final = ("llama.cpp", "vllm", "openvino", "transformers")

FORMATS: Final = ("bf16", "int8", "int4")

FORMATS_OF: Final = {
    OURS: FORMATS,
    "llama.cpp": FORMATS,
    "vllm": ("bf16",),
    "openvino": FORMATS,
    "transformers": ("bf16",),
}

NAMES: Final = {
    OURS: OURS,
    "vllm": "vLLM",
    "openvino": "OpenVINO",
    "transformers": "transformers",
}
"""What tables call the engines; llama.cpp has its types besides."""

LLAMA_TYPES: Final = {"bf16": ("BF16",), "int8": ("Q8_0",), "int4": ("Q4_0", "Q4_K_M")}

OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Settings:
    """Where things are.

    Args:
        work: Folder of `models/`, `gguf/` and `openvino-models/`.
        threads: Compute threads of every engine.
        pythons: Interpreters of the engines that are Python packages, by name.
        llama_bin: Folder of llama.cpp's programs.
        vllm_preload: Libraries that vLLM is to be started with.
    """

    work: Path
    threads: int
    pythons: dict[str, str]
    llama_bin: Path | None
    vllm_preload: str


@dataclass(frozen=True)
class Contestant:
    """An engine with a model in one format.

    Args:
        name: What tables call it.
        command: Starts its runner, `--startup` apart.
        environment: Variables it needs.
    """

    name: str
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)


def runner(
    settings: Settings, engine: str, model: Path, tokenizer: Path, weights: str
) -> list[str]:
    """The command of an engine's runner."""
    module = f"runners.{engine.replace('.', '_')}_runner"
    options = {"--model": model, "--tokenizer": tokenizer, "--format": weights}
    command = [settings.pythons[engine], "-m", module, "--threads", str(settings.threads)]
    return command + [text for name, value in options.items() for text in (name, str(value))]


def llama_cpp(settings: Settings, folder: Path, weights: str) -> list[Contestant]:
    """llama.cpp, once for each of its types that a format compares with."""
    found = []
    for kind in LLAMA_TYPES[weights]:
        file = settings.work / "gguf" / f"{folder.name}-{kind}.gguf"
        command = runner(settings, "llama.cpp", file, folder, weights)
        command += ["--binaries", str(settings.llama_bin)]
        found.append(Contestant(f"llama.cpp {kind}", command))
    return found


def vllm_environment(settings: Settings) -> dict[str, str]:
    """VLLM's settings: by itself it leaves a core of two to other things."""
    cpus = sorted(os.sched_getaffinity(0))[: settings.threads]
    return {
        **OFFLINE,
        "VLLM_CPU_KVCACHE_SPACE": str(KV_CACHE_GIB),
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
        "VLLM_USE_AOT_COMPILE": "0",
        "VLLM_LOGGING_LEVEL": "WARNING",
        "VLLM_NO_USAGE_STATS": "1",
        "LD_PRELOAD": settings.vllm_preload,
    }


def contestants(
    settings: Settings, engines: list[str], model: str, weights: str
) -> list[Contestant]:
    """Who runs a model in a format, ours first; engines that are not there are left out."""
    folder = settings.work / "models" / FOLDERS[model]
    found = []
    for engine in engines:
        if engine not in settings.pythons or weights not in FORMATS_OF[engine]:
            continue
        if engine == "llama.cpp":
            found += llama_cpp(settings, folder, weights)
            continue
        source, environment = folder, OFFLINE
        if engine == "openvino":
            source = settings.work / "openvino-models" / f"{folder.name}-{weights}"
        elif engine == "vllm":
            environment = vllm_environment(settings)
        command = runner(settings, engine, source, folder, weights)
        found.append(Contestant(NAMES[engine], command, environment))
    return found
