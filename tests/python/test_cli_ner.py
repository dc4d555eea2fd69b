"""`rustllm ner` as users run it."""

import contextlib
import fcntl
import json
import os
import pty
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest

from rustllm import pipeline

NER = Path(__file__).parent.parent / "goldens" / "pipeline_ner"
TEXTS = ["Marie Laveau waits in Gdańsk.", "", "😀 Ålesund"]


def ner(*arguments: str, stdin: str = "") -> "subprocess.CompletedProcess[bytes]":
    command = [sys.executable, "-m", "rustllm", "ner", "--model", str(NER), *arguments]
    return subprocess.run(command, input=stdin.encode(), capture_output=True, timeout=120)


def records(done: "subprocess.CompletedProcess[bytes]") -> list[dict[str, Any]]:
    assert done.returncode == 0 and done.stderr == b""
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def test_lines_of_stdin_in_objects_out() -> None:
    found = records(ner(stdin="\n".join(TEXTS) + "\n"))
    pipe = pipeline("ner", NER, aggregation_strategy="simple")
    expected = [{"index": index, "entities": pipe(text)} for index, text in enumerate(TEXTS)]
    assert found == expected and found[0]["entities"]


def test_objects_of_a_file_and_options(tmp_path: Path) -> None:
    file = tmp_path / "texts.jsonl"
    file.write_text(json.dumps({"id": 3, "body": TEXTS[2]}) + "\n\n")
    options = ("--text-field", "body", "--aggregation-strategy", "max", "--ignore-labels")
    [found] = records(ner(str(file), *options))
    pipe = pipeline("ner", NER, aggregation_strategy="max", ignore_labels=[])
    assert found == {"index": 0, "id": 3, "entities": pipe(TEXTS[2])}


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        (("--format", "jsonl"), '{"text": 4}', 2, "line 1 is no JSON object with a string"),
        (("nowhere.txt",), "", 2, "cannot read nowhere.txt: No such file"),
        (("--stride", "3", "--aggregation-strategy", "none"), "", 1, "stride needs an aggregation"),
        (("--aggregation-strategy", "last"), "", 2, "invalid choice: 'last'"),
    ],
)
def test_errors_are_one_line(
    arguments: tuple[str, ...], stdin: str, status: int, message: str
) -> None:
    done = ner(*arguments, stdin=stdin)
    assert done.returncode == status and done.stdout == b""
    [line] = done.stderr.decode().splitlines()
    assert line.startswith("rustllm ner: error: ") and message in line


def test_counts_on_a_terminal() -> None:
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    command = [sys.executable, "-m", "rustllm", "ner", "--model", str(NER)]
    done = subprocess.run(
        command, input=TEXTS[0].encode(), stdout=subprocess.PIPE, stderr=slave, timeout=120
    )
    os.close(slave)
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 1
    shown = b""
    with contextlib.suppress(OSError):  # the end of a terminal that nobody writes to any more
        while chunk := os.read(master, 65536):
            shown += chunk
    os.close(master)
    assert b"Texts: 1 texts" in shown
