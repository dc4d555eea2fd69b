"""Compare rustllm with other engines on this machine, taking turns.

    python compare.py WORK --models M1 --formats bf16 --workloads prefill,decode \
        --llama-bin llama.cpp/build/bin --vllm-python vllm/bin/python

A round is: ours, a peer, the next peer, ...; then the next round. Each repetition has new prompts,
the same for all engines, and a probe of the machine's limits before it, so that a machine that
gets slower or faster does so for everybody. Prints Markdown; README.md beside this file says how
to install the peers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import IO

from engines import FOLDERS, FORMATS, OURS, PEERS, Contestant, Settings, contestants
from processes import RunnerError, RunnerProcess, busy_seconds
from roofline import Limits, ModelShape, Probe, limit_value
from table import Cell, Group, report
from workloads import WORKLOADS, Workload


class Field:
    """The engines that compare one model in one format, with those runners that are loaded.

    Args:
        who: The engines, ours first.
        arguments: The command line.
        log: File for what runners print.
    """

    def __init__(
        self, who: list[Contestant], arguments: argparse.Namespace, log: IO[bytes]
    ) -> None:
        self.who, self._arguments, self._log = who, arguments, log
        self._loaded: dict[str, RunnerProcess] = {}
        self._failed: dict[str, str] = {}

    def close(self) -> None:
        """Ends all runners."""
        for process in self._loaded.values():
            process.close()
        self._loaded.clear()

    def turn(self, contestant: Contestant, workload: Workload, seed: str, cell: Cell) -> None:
        """One repetition of one engine; what goes wrong is noted in the cell, which then rests."""
        if cell.error is not None:
            return
        try:
            if workload.name == "startup":
                self._start_up(contestant, cell)
            else:
                self._repeat(contestant, workload, seed, cell)
        except RunnerError as error:
            cell.error = " ".join(str(error).split())[:200]
            self._unload(contestant)

    def warm_up(self, contestant: Contestant, workload: Workload, cell: Cell) -> None:
        """Loads the model if it is not, and lets the engine meet the workload's shapes."""
        if workload.name == "startup":
            self.close()
            self.turn(contestant, workload, "warm up", Cell(contestant.name))
            return
        try:
            process = self._load(contestant)
            process.go_on()
            process.ask(workload=workload.name, seed="warm up", warm_up=True)
            process.hold()
        except RunnerError as error:
            cell.error = " ".join(str(error).split())[:200]
            self._unload(contestant)

    def _load(self, contestant: Contestant) -> RunnerProcess:
        if contestant.name in self._failed:
            raise RunnerError(self._failed[contestant.name])
        if contestant.name not in self._loaded:
            try:
                process = RunnerProcess(contestant, self._log, self._arguments.timeout)
            except RunnerError as error:
                self._failed[contestant.name] = str(error)
                raise
            self._loaded[contestant.name] = process
        return self._loaded[contestant.name]

    def _unload(self, contestant: Contestant) -> None:
        process = self._loaded.pop(contestant.name, None)
        if process is not None:
            process.close()

    def _start_up(self, contestant: Contestant, cell: Cell) -> None:
        busy, begin = busy_seconds(), time.perf_counter()
        process = RunnerProcess(contestant, self._log, self._arguments.timeout, startup=True)
        wall = time.perf_counter() - begin
        try:
            cell.others.append((busy_seconds() - busy - process.cpu_seconds()) / wall)
            cell.values.append(process.ready.get("seconds", wall))
            cell.peaks.append(process.ready.get("peak_bytes") or process.peak_bytes())
            if cell.installed is None:
                cell.installed = process.ask(workload="size")["value"]
        finally:
            process.close()

    def _repeat(self, contestant: Contestant, workload: Workload, seed: str, cell: Cell) -> None:
        process = self._load(contestant)
        for attempt in range(self._arguments.retries + 1):
            process.go_on()
            busy, own, begin = busy_seconds(), process.cpu_seconds(), time.perf_counter()
            value = process.ask(workload=workload.name, seed=f"{seed} {attempt}")["value"]
            wall = time.perf_counter() - begin
            others = (busy_seconds() - busy - (process.cpu_seconds() - own)) / wall
            process.hold()
            if others <= self._arguments.quiet:
                break
        cell.values.append(value)
        cell.others.append(others)
        if self._arguments.unload:
            self._unload(contestant)


def run_group(field: Field, group: Group, repetitions: int, probe: Probe) -> None:
    """All rounds of one workload."""
    turns = list(zip(field.who, group.cells, strict=True))
    for contestant, cell in turns:
        field.warm_up(contestant, group.workload, cell)
    probed: list[Limits] = []
    for repetition in range(repetitions):
        for contestant, cell in turns:
            limits = probe.measure()
            probed += [limits] if limits else []
            field.turn(contestant, group.workload, str(repetition), cell)
            shown = f"{cell.values[-1]:.4g}" if cell.values and not cell.error else cell.error
            where = f"{group.model} {group.weights} {group.workload.name}"
            print(f"{where} round {repetition + 1} {cell.name}: {shown}", file=sys.stderr)
    group.limits = Limits.median(probed) if probed else None


def run(arguments: argparse.Namespace, settings: Settings) -> list[Group]:
    """Everything that was asked for, a model and format at a time."""
    groups: list[Group] = []
    probe = Probe(settings.work, settings.threads)
    for model in arguments.models:
        shape = ModelShape.of(settings.work / "models" / FOLDERS[model])
        for weights in arguments.formats:
            who = contestants(settings, [OURS, *arguments.peers], model, weights)
            with ExitStack() as stack:
                log = stack.enter_context((settings.work / "runners.log").open("ab"))
                field = Field(who, arguments, log)
                stack.callback(field.close)
                for name in arguments.workloads:
                    cells = [Cell(contestant.name) for contestant in who]
                    group = Group(model, weights, WORKLOADS[name], cells)
                    run_group(field, group, arguments.repetitions, probe)
                    if group.limits is not None:
                        group.limit = limit_value(group.workload, shape, weights, group.limits)
                    groups.append(group)
                    write(arguments, settings, groups)
    return groups


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def write(arguments: argparse.Namespace, settings: Settings, groups: list[Group]) -> None:
    """Writes the tables, and the figures they are made of, so far."""
    if arguments.output is None:
        return
    when = time.strftime("%Y-%m-%d")
    head = f"{when}, {processor()}, {settings.threads} threads\n\n"
    arguments.output.write_text(head + report(groups), encoding="utf-8")
    raw = [asdict(group) for group in groups]
    arguments.output.with_suffix(".json").write_text(json.dumps(raw, indent=1), encoding="utf-8")


def words(*allowed: str) -> Callable[[str], list[str]]:
    """Reads an option that lists some of the allowed words."""

    def parse(text: str) -> list[str]:
        chosen = text.split(",") if text else []
        wrong = sorted(set(chosen) - set(allowed))
        if wrong:
            message = f"no such choice: {', '.join(wrong)}; there are {', '.join(allowed)}"
            raise argparse.ArgumentTypeError(message)
        return chosen

    return parse


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Compare rustllm with other engines on this machine, taking turns."
    )
    add = parser.add_argument
    add("work", type=Path, help="folder of models/, gguf/ and openvino-models/")
    add("--models", type=words(*FOLDERS), default=["M1"], help=",".join(FOLDERS))
    add("--formats", type=words(*FORMATS), default=["bf16"], help=",".join(FORMATS))
    add("--workloads", type=words(*WORKLOADS), default=list(WORKLOADS), help=",".join(WORKLOADS))
    add("--peers", type=words(*PEERS), default=list(PEERS), help=",".join(PEERS))
    add("--repetitions", type=int, default=5)
    add("--threads", type=int, default=len(os.sched_getaffinity(0)))
    add("--rustllm-python", default=sys.executable, help="interpreter that has rustllm")
    add("--llama-bin", type=Path, help="folder of llama-bench and llama.cpp's other programs")
    for engine in ("vllm", "openvino", "transformers"):
        add(f"--{engine}-python", help=f"interpreter that has {engine}")
    add("--vllm-preload", default="", help="libraries to preload into vLLM, as in LD_PRELOAD")
    add("--timeout", type=float, default=900.0, help="seconds that a load or repetition may take")
    help_text = "repeat what others used more cores than this beside"
    add("--quiet", type=float, default=0.05, help=help_text)
    add("--retries", type=int, default=0, help="so many times at most")
    add("--unload", action="store_true", help="end a runner after its turn: slow, saves memory")
    add("--output", type=Path, help="file for the tables; the figures go beside it as .json")
    arguments = parser.parse_args()
    if not 1 <= arguments.threads <= len(os.sched_getaffinity(0)):
        parser.error(f"--threads must be 1 to {len(os.sched_getaffinity(0))}")
    return arguments


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Where things are, absolute: runners have a working folder of their own."""
    pythons = {OURS: arguments.rustllm_python}
    llama_bin = arguments.llama_bin and arguments.llama_bin.resolve()
    if llama_bin:
        pythons["llama.cpp"] = sys.executable
    for engine in ("vllm", "openvino", "transformers"):
        python = getattr(arguments, f"{engine}_python")
        if python:
            pythons[engine] = python
    # Not resolved: the interpreter of a virtual environment is a link to another one.
    pythons = {engine: str(Path(python).absolute()) for engine, python in pythons.items()}
    return Settings(
        arguments.work.resolve(), arguments.threads, pythons, llama_bin, arguments.vllm_preload
    )


def main() -> None:
    """The command line."""
    arguments = parse_arguments()
    # As an interrupt does, so that runners are ended: they are no children of the terminal.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(report(run(arguments, settings_of(arguments))))


if __name__ == "__main__":
    main()
