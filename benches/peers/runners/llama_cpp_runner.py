"""llama.cpp, through its own benchmark programs: a process for each repetition.

They measure without loading, sampling and tokenization. `llama-batched-bench` has no own tokens
after a shared beginning, so its `prefix` is a little less work than the others'.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any, Final

from runners.protocol import Engine, Options, serve
from workloads import MAX_MODEL_LEN, WORKLOADS, Workload

LIBRARIES: Final = "*.so*"


def startup_prompt(tokenizer: Path, words: int) -> str:
    """A text of so many tokens: words that the vocabulary has whole, each with the space before."""
    text = (tokenizer / "tokenizer.json").read_text(encoding="utf-8")
    vocab: dict[str, int] = json.loads(text)["model"]["vocab"]
    space = "\u0120"  # how byte-level tokenizers write one
    whole = sorted(
        token[1:]
        for token in vocab
        if token.startswith(space)
        and len(token) > 4
        and token[1:].isascii()
        and token[1:].isalpha()
    )
    return "".join(f" {word}" for word in whole[:words])


class LlamaCpp:
    """llama.cpp's programs with one GGUF file."""

    def __init__(self, options: Options) -> None:
        for program in ("llama-bench", "llama-batched-bench", "llama-completion"):
            if not (options.binaries / program).exists():
                raise FileNotFoundError(options.binaries / program)
        if not options.model.exists():
            raise FileNotFoundError(options.model)
        self._options = options

    def first_token(self) -> dict[str, float]:
        """Runs `llama-completion` from start to end: one token of a short text."""
        workload = WORKLOADS["startup"]
        prompt = startup_prompt(self._options.tokenizer, workload.prompt_len)
        settings = ["-n", str(workload.new), "-c", str(MAX_MODEL_LEN), "--ignore-eos", "-no-cnv"]
        command = self._command("llama-completion", *settings, "-p", prompt)
        begin = time.perf_counter()
        silent = subprocess.DEVNULL
        process = subprocess.Popen(command, stdin=silent, stdout=silent, stderr=silent)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"llama-completion ended with {process.returncode}")
        return {"seconds": seconds, "peak_bytes": usage.ru_maxrss * 1024}

    def warm_up(self, workload: Workload, seed: str) -> None:
        """Does nothing: the programs warm themselves up, each time."""

    def run(self, workload: Workload, seed: str) -> float:
        """Runs one repetition; the programs choose random tokens themselves."""
        if workload.figure == "prefill":
            return self._bench("-p", str(workload.prompt_len), "-n", "0")
        if workload.figure == "decode":
            new, depth = str(workload.new), str(workload.prompt_len)
            return self._bench("-p", "0", "-n", new, "-d", depth)
        row = self._batched_bench(workload)
        if workload.figure == "batch":
            return workload.requests * workload.new / float(row["t"])
        return float(row["t"])

    def installed_bytes(self) -> int:
        """Size of the one program a person needs and of the libraries."""
        folder = self._options.binaries
        files = [folder / "llama-completion", *folder.glob(LIBRARIES)]
        return sum(file.stat().st_size for file in files if not file.is_symlink())

    def _command(self, program: str, *arguments: str) -> list[str]:
        path = str(self._options.binaries / program)
        return [path, "-m", str(self._options.model), "-t", str(self._options.threads), *arguments]

    def _bench(self, *arguments: str) -> float:
        output = self._output(self._command("llama-bench", *arguments, "-r", "1", "-o", "jsonl"))
        return float(output["avg_ts"])

    def _batched_bench(self, workload: Workload) -> dict[str, Any]:
        context = workload.shared + workload.requests * (workload.own + workload.new)
        sizes = {"-npp": workload.shared or workload.own, "-ntg": workload.new}
        sizes |= {"-npl": workload.requests, "-c": context, "-b": 2048, "-ub": 512}
        sizes["-tb"] = self._options.threads
        arguments = [text for name, size in sizes.items() for text in (name, str(size))]
        if workload.shared:
            arguments += ["-pps", "-kvu"]
        arguments += ["--output-format", "jsonl"]
        return self._output(self._command("llama-batched-bench", *arguments))

    def _output(self, command: list[str]) -> dict[str, Any]:
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        for line in done.stdout.splitlines():
            if line.startswith("{"):
                row: dict[str, Any] = json.loads(line)
                return row
        raise RuntimeError(f"{Path(command[0]).name} ended with {done.returncode} and no result")


def load(options: Options) -> Engine:
    """Looks for the programs."""
    return LlamaCpp(options)


if __name__ == "__main__":
    serve(load)
