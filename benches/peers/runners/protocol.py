"""How a runner and `compare.py` talk: one JSON object a line, over standard input and output.

    compare.py                            runner, in the engine's own interpreter
        | starts it with --model ... ------> | loads the model
        |                                    | generates a token, where --startup is given
        | <--------------- {"ready": true} - |
        | {"workload": .., "seed": ..} ----> | runs one repetition
        | <------------- {"value": 123.4} -- |
        | {"workload": "size"} ------------> |
        | <----- {"value": installed bytes}- |
        | end of input --------------------> | ends

A runner that cannot do what it is asked answers `{"error": "..."}`. What an engine prints itself
goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from workloads import WORKLOADS, Generate, Workload, measure, prompts, vocab_size

WARM_UP_TOKENS: Final = 2
"""Tokens a warm-up generates for each request: enough to have met every shape."""


@dataclass(frozen=True)
class Options:
    """What a runner is started with.

    Args:
        model: The model: a folder, or a file where the engine's format is one.
        tokenizer: The model's Hugging Face folder.
        format: `bf16`, `int8` or `int4`.
        threads: Compute threads.
        startup: Generate a first token before saying ready.
        binaries: Folder of the engine's programs, where it is no Python package.
    """

    model: Path
    tokenizer: Path
    format: str
    threads: int
    startup: bool
    binaries: Path


def parse_options() -> Options:
    """The command line of a runner."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--format", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--startup", action="store_true")
    parser.add_argument("--binaries", type=Path, default=Path())
    return Options(**vars(parser.parse_args()))


class Replies:
    """The way back to `compare.py`: standard output, which engines no longer can print to."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)

    def send(self, reply: dict[str, Any]) -> None:
        """Sends one line."""
        print(json.dumps(reply), file=self._file)


class Engine(Protocol):
    """An engine with a model loaded."""

    def first_token(self) -> dict[str, float]:
        """Generates one token; returns what the answer to `--startup` is to say besides."""
        ...

    def warm_up(self, workload: Workload, seed: str) -> None:
        """Runs a workload's prompts for a few tokens."""
        ...

    def run(self, workload: Workload, seed: str) -> float:
        """Runs one repetition and returns its figure."""
        ...

    def installed_bytes(self) -> int:
        """What the engine takes on disk, models apart."""
        ...


class PythonEngine:
    """An engine that is a Python package.

    Args:
        distribution: The package's name.
        generate: Runs prompts.
        vocab: Number of token ids.
    """

    def __init__(self, distribution: str, generate: Generate, vocab: int) -> None:
        self._distribution, self._generate, self._vocab = distribution, generate, vocab

    def first_token(self) -> dict[str, float]:
        """Generates one token; `compare.py` has the clock."""
        workload = WORKLOADS["startup"]
        self._generate(prompts(workload, self._vocab, "first"), 1)
        return {}

    def warm_up(self, workload: Workload, seed: str) -> None:
        """Runs a workload's prompts for a few tokens."""
        self._generate(prompts(workload, self._vocab, seed), min(workload.new, WARM_UP_TOKENS))

    def run(self, workload: Workload, seed: str) -> float:
        """Runs one repetition and returns its figure."""
        return measure(self._generate, workload, self._vocab, seed)

    def installed_bytes(self) -> int:
        """Size of the package and of those it requires."""
        from runners.installed_size import installed_bytes

        return installed_bytes(self._distribution)


def answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    """The reply to one request."""
    if request["workload"] == "size":
        return {"value": engine.installed_bytes()}
    workload, seed = WORKLOADS[request["workload"]], request["seed"]
    if request.get("warm_up"):
        engine.warm_up(workload, seed)
        return {"value": 0}
    return {"value": engine.run(workload, seed)}


def serve(load: Callable[[Options], Engine]) -> None:
    """Loads an engine and answers requests until the input ends."""
    options = parse_options()
    replies = Replies()
    try:
        engine = load(options)
        replies.send({"ready": True, **(engine.first_token() if options.startup else {})})
    except Exception as error:
        replies.send({"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        try:
            replies.send(answer(engine, json.loads(line)))
        except Exception as error:
            replies.send({"error": f"{type(error).__name__}: {error}"})


def serve_python(distribution: str, load: Callable[[Options], Generate]) -> None:
    """The same for an engine that is a Python package."""
    serve(lambda options: PythonEngine(distribution, load(options), vocab_size(options.tokenizer)))
