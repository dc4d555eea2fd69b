"""Runners as processes: started once, asked for a repetition at a time, stopped in between.

Only the runner whose turn it is may run. The others are held with SIGSTOP, their whole process
group, and continued with SIGCONT: some engines spin on a core while they wait for work (vLLM's
worker does), which would slow down whoever has the turn.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from engines import Contestant

CLOCK_TICKS: Final = os.sysconf("SC_CLK_TCK")

HERE: Final = Path(__file__).resolve().parent

SECONDS_TO_END: Final = 10.0
SECONDS_TO_STOP: Final = 10.0


class RunnerError(Exception):
    """A runner could not do what it was asked."""


def busy_seconds() -> float:
    """Processor time that all programs used so far, and what the host kept from this machine."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    user, nice, system, _, _, irq, softirq, steal = map(int, first.split()[1:9])
    return (user + nice + system + irq + softirq + steal) / CLOCK_TICKS


class RunnerProcess:
    """A runner and the processes it starts: one process group.

    Args:
        contestant: What to start.
        log: File that gets what it prints besides its replies.
        timeout: Seconds a reply may take.
        startup: Start it to generate a first token before it says ready.

    Raises:
        RunnerError: it did not get ready.
    """

    def __init__(
        self, contestant: Contestant, log: IO[bytes], timeout: float, *, startup: bool = False
    ) -> None:
        self._name, self._timeout = contestant.name, timeout
        self._process = subprocess.Popen(
            contestant.command + ["--startup"] * startup,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            cwd=HERE,
            env={**os.environ, **contestant.environment},
            start_new_session=True,
        )
        self._group = self._process.pid
        self._unread = b""
        try:
            self.ready = self._reply()
        except BaseException:  # an interrupt too: held processes would stay for ever
            self.close()
            raise

    def ask(self, **request: Any) -> dict[str, Any]:
        """Sends a request and waits for its reply.

        Raises:
            RunnerError: the reply was an error, or there was none.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RunnerError(f"{self._name} has ended") from error
        return self._reply()

    def hold(self) -> None:
        """Stops all its processes where they are, and returns once they have stopped.

        A signal is sent before it is acted upon: without the wait, the next engine's turn could
        begin beside this one.
        """
        self._signal(signal.SIGSTOP)
        end = time.monotonic() + SECONDS_TO_STOP
        while any(stat[0] not in "TtXZ" for _, stat in self._processes()):
            if time.monotonic() > end:
                raise RunnerError(f"{self._name} did not stop within {SECONDS_TO_STOP:.0f} s")
            time.sleep(0.001)

    def go_on(self) -> None:
        """Lets them run again."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Ends all its processes."""
        self.go_on()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.close()
            self._process.wait(SECONDS_TO_END)
        except (OSError, subprocess.TimeoutExpired):
            pass
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process.stdout.close()

    def cpu_seconds(self) -> float:
        """Processor time its processes used, those that they waited for included."""
        return sum(sum(map(int, stat[11:15])) for _, stat in self._processes()) / CLOCK_TICKS

    def peak_bytes(self) -> int:
        """The most memory each of its processes held, summed."""
        total = 0
        for folder, _ in self._processes():
            try:
                status = (folder / "status").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue
            for line in status.splitlines():
                if line.startswith("VmHWM:"):
                    total += int(line.split()[1]) * 1024
        return total

    def _processes(self) -> Iterator[tuple[Path, list[str]]]:
        """Each process of the group: its folder in /proc, and its `stat` from the state on."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            fields = text[text.rindex(")") + 2 :].split()
            if int(fields[2]) == self._group:
                yield folder, fields

    def _signal(self, number: signal.Signals) -> None:
        try:
            os.killpg(self._group, number)
        except ProcessLookupError:
            return

    def _reply(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._line())
        if "error" in reply:
            raise RunnerError(f"{self._name}: {reply['error']}")
        return reply

    def _line(self) -> bytes:
        assert self._process.stdout is not None
        end = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, end - time.monotonic())):
                    raise RunnerError(f"{self._name} gave no answer within {self._timeout:.0f} s")
                chunk = os.read(self._process.stdout.fileno(), 1 << 16)
                if not chunk:
                    raise RunnerError(f"{self._name} ended without an answer; see its log")
                self._unread += chunk
        line, self._unread = self._unread.split(b"\n", 1)
        return line
