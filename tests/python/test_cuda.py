"""A GPU as users ask for one, on the simulator: `LD_LIBRARY_PATH` puts it in the driver's place."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rustllm import LLM, SamplingParams, _core
from rustllm.errors import ValidationError

ROOT = Path(__file__).parent.parent.parent
SMALL = ("--max-num-seqs", "4", "--max-num-batched-tokens", "32", "--max-model-len", "128")
"""The largest step is run when an engine starts: here on a processor that plays the GPU."""


@pytest.fixture(scope="module")
def simulator() -> Path:
    """The folder of the simulator's libcuda.so.1, as cargo has built it for the Rust tests."""
    build = subprocess.run(
        ["cargo", "build", "--locked", "-p", "rustllm-cuda-simulator", "--message-format=json"],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    messages = [json.loads(line) for line in build.stdout.splitlines()]
    [folder] = [
        m["out_dir"]
        for m in messages
        if "rustllm-cuda-simulator" in m.get("package_id", "") and "out_dir" in m
    ]
    return Path(folder)


def rustllm(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "rustllm", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        check=False,
    )


def generate(
    device: str, *arguments: str, **environment: str
) -> "subprocess.CompletedProcess[str]":
    sampling = ("--max-tokens", "4", "--temperature", "0")
    return rustllm(
        "generate", "def add(", "--device", device, *sampling, *SMALL, *arguments, **environment
    )


def test_text_is_that_of_the_cpu(simulator: Path) -> None:
    on_gpu = generate("cuda", LD_LIBRARY_PATH=str(simulator))
    assert on_gpu.returncode == 0, on_gpu.stderr
    assert on_gpu.stdout == generate("cpu").stdout != ""


def test_auto_takes_the_gpu(simulator: Path) -> None:
    program = (
        "import logging; logging.basicConfig(level=logging.INFO)\n"
        "from rustllm import LLM\n"
        "llm = LLM(max_num_seqs=4, max_num_batched_tokens=32, max_model_len=128)\n"
        "info = llm.llm_engine.model.engine.model_info\n"
        "print(info.device, info.device_name, info.isa, info.why_not_cuda)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "LD_LIBRARY_PATH": str(simulator)},
        check=True,
    )
    assert done.stdout == "cuda CUDA simulator sm_80 None\n"
    assert "CUDA simulator: 8.00 GiB of 8.00 GiB free; weights at least" in done.stderr
    assert "key/value cache: " in done.stderr


def test_doctor_finds_the_device(simulator: Path) -> None:
    done = rustllm("doctor", "--json", LD_LIBRARY_PATH=str(simulator))
    gpu: dict[str, Any] = json.loads(done.stdout)["gpu"]
    assert gpu["cuda"] == "13.0"
    assert gpu["device 0"].startswith("CUDA simulator, compute capability 8.0")


def test_a_model_that_does_not_fit_is_refused_with_the_numbers(simulator: Path) -> None:
    done = generate("cuda", "--gpu-memory-utilization", "0.0001", LD_LIBRARY_PATH=str(simulator))
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert "error: the weights take at least" in last
    assert "gpu_memory_utilization=0.0001" in last


@pytest.mark.skipif(_core.cuda_info()["error"] is None, reason="there is a driver on this machine")
def test_without_a_driver_auto_is_the_cpu_and_cuda_an_error() -> None:
    with pytest.raises(
        ValidationError, match=r"no CUDA driver was found \(libcuda.so.1: .*driver 580"
    ) as caught:
        LLM(device="cuda")
    assert (caught.value.parameter, caught.value.value) == ("device", "cuda:0")
    llm = LLM(max_model_len=64)
    info = llm.llm_engine.model.engine.model_info
    assert info.device == "cpu"
    assert info.why_not_cuda is not None
    assert info.why_not_cuda.startswith("no CUDA driver was found")
    assert llm.generate(["a"], SamplingParams(max_tokens=1), use_tqdm=False)
