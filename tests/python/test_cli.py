"""The `rustllm` command as users run it."""

import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CHAT_LLAMA = Path(__file__).parent.parent / "goldens" / "chat_llama"
TIMEOUT = 120.0
ENDLESS = (
    *("--max-tokens", "100000", "--ignore-eos", "--max-model-len", "100k", "--max-num-seqs", "1"),
    *("--hf-overrides", '{"max_position_embeddings": 200000}'),
)
"""Makes an answer long enough to be interrupted."""
GREEDY = ("--temperature", "0", "--repetition-penalty", "1")


def rustllm(
    *arguments: str, stdin: str | None = None, **environment: str
) -> "subprocess.CompletedProcess[str]":
    """Runs the command; its output is kept to the byte, carriage returns and all."""
    done = subprocess.run(
        [sys.executable, "-m", "rustllm", *arguments],
        input=None if stdin is None else stdin.encode(),
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        timeout=TIMEOUT,
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
    )
    stdout, stderr = done.stdout.decode(), done.stderr.decode()
    return subprocess.CompletedProcess(done.args, done.returncode, stdout, stderr)


def generate(*arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    return rustllm("generate", "--model", str(CHAT_LLAMA), *arguments, **options)


def reference_completion() -> dict[str, Any]:
    """A conversation of one message, and what the model says to it."""
    reference = json.loads((CHAT_LLAMA / "chat_reference.json").read_text())
    chats = {chat["name"]: chat for chat in reference["chats"]}
    for completion in reference["completions"]:
        chat = {**chats.get(completion["name"], {}), **completion}
        roles = [message["role"] for message in chat["messages"]]
        one_line = "\n" not in chat["messages"][0]["content"]
        if roles == ["user"] and one_line and completion["text"] == completion["text"].strip():
            assert isinstance(chat, dict)
            return chat
    raise AssertionError("the reference has no such conversation")


def test_version_is_the_packages() -> None:
    from rustllm import __version__

    for flag in ("--version", "-V"):
        result = rustllm(flag)
        assert (result.returncode, result.stdout) == (0, f"rustllm {__version__}\n")


def test_help_names_every_command_and_every_command_has_help() -> None:
    from rustllm.cli import COMMANDS

    result = rustllm("--help")
    assert result.returncode == 0
    for command in COMMANDS:
        assert command in result.stdout
        help_text = rustllm(command, "--help")
        assert help_text.returncode == 0
        assert help_text.stdout.startswith(f"usage: rustllm {command}")


def test_help_and_version_import_nothing_heavy() -> None:
    code = (
        "import sys, rustllm.cli as c; c.main(['--help']); c.main(['--version']);"
        "heavy = ('numpy', 'tokenizers', 'asyncio', 'fastapi', 'huggingface_hub', 'argparse');"
        "print([m for m in heavy if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_serve_help_has_a_flag_for_every_engine_argument() -> None:
    import dataclasses

    from rustllm.engine_args import EngineArgs

    text = rustllm("serve", "--help").stdout
    for field in dataclasses.fields(EngineArgs):
        if field.name not in ("model", "skip_tokenizer_init"):
            assert f"--{field.name.replace('_', '-')}" in text
    assert "--no-enable-prefix-caching" in text
    assert "the share of free RAM" in " ".join(text.split())


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["generate", "--no-such-flag", "x"], "--no-such-flag"),
        (["generate", "a", "--temperature", "3"], "temperature must be in [0, 2]"),
        (["generate", "a", "--temperature", "warm"], "--temperature"),
        (["generate", "a", "--temp", "1"], "--temp"),
        (["generate", "a", "--max-tokens", "0"], "max_tokens must be at least 1"),
        (["generate", "a", "--max-model-len", "long"], "max_model_len"),
        (["generate", "a", "--tensor-parallel-size", "2"], "tensor_parallel_size"),
        (["generate", "a", "--enable-lora"], "enable_lora"),
        (["generate", "a", "--hf-overrides", "[1]"], "JSON object"),
        (["generate", ""], "empty"),
        (["chat", "hello"], "hello"),
        (["serve", "a", "--model", "b"], "once"),
        (["serve", "a", "--port", "70000"], "70000"),
        (["serve", "a", "--api-key", ""], "--api-key"),
        (["serve", "a", "--ssl-keyfile", "k"], "--ssl-certfile"),
        (["serve", "a", "--allow-credentials", "--allowed-origins", "*"], "--allow-credentials"),
        (["serve", "a", "--shutdown-timeout", "-1"], "--shutdown-timeout"),
        (["bench", "speed"], "unknown benchmark 'speed'"),
        (["bench", "latency", "--batch-size", "0"], "--batch-size"),
        (["doctor", "now"], "now"),
    ],
    ids=" ".join,
)
def test_bad_arguments_end_with_status_2_and_one_line(arguments: list[str], part: str) -> None:
    result = rustllm(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert line.startswith("rustllm")
    assert "error: " in line
    assert part in line


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["generate", "a", "--model", "/no/such/folder"], "/no/such/folder"),
        (["generate", "a", "--model", str(CHAT_LLAMA), "--device", "tpu"], "device"),
        (["generate", "a " * 3000, "--model", str(CHAT_LLAMA)], "512"),
        (["serve", "/no/such/folder", "--port", "0"], "/no/such/folder"),
        (["chat", "--model", "/no/such/folder"], "/no/such/folder"),
        (["bench", "startup", "--num-iters", "1", "--model", "/no/such"], "/no/such"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_errors_of_the_engine_end_with_status_1_and_one_line(
    arguments: list[str], part: str
) -> None:
    result = rustllm(*arguments)
    assert (result.returncode, result.stdout) == (1, "")
    assert "Traceback" not in result.stderr
    assert part in result.stderr.splitlines()[-1]
    assert ": error: " in result.stderr.splitlines()[-1]


def test_a_traceback_comes_when_asked_for() -> None:
    result = rustllm("generate", "a", "--model", "/no/such", RUSTLLM_TRACEBACK="1")
    assert result.returncode == 1
    assert "Traceback" in result.stderr


def test_flags_of_vllm_without_effect_warn_once() -> None:
    result = generate("Hello", "--max_tokens", "2", "--disable-cascade-attn", "--swap-space", "4")
    assert result.returncode == 0
    assert result.stderr.count("disable_cascade_attn has no effect") == 1
    assert result.stderr.count("swap_space has no effect") == 1


def test_the_default_model_continues_a_text() -> None:
    result = rustllm("generate", "def fibonacci(n):", "--max-tokens", "24", "--temperature", "0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip()
    assert result.stderr == ""


def test_streamed_text_is_the_whole_text() -> None:
    arguments = ("The quick brown fox", "--max-tokens", "48", "--seed", "5", "--temperature", "0.9")
    streamed = generate(*arguments)
    whole = generate(*arguments, "--no-stream")
    assert streamed.returncode == whole.returncode == 0
    assert streamed.stdout == whole.stdout
    assert streamed.stdout.endswith("\n")
    assert streamed.stderr == ""
    assert generate(*arguments, "--echo").stdout == "The quick brown fox" + whole.stdout


def test_the_prompt_comes_from_stdin_when_there_is_none() -> None:
    options = ("--max-tokens", "16", *GREEDY)
    given = generate("one two", *options)
    piped = generate(*options, stdin="one two\n")
    assert given.stdout == piped.stdout
    empty = generate(*options, stdin="")
    assert (empty.returncode, empty.stdout) == (2, "")


def test_several_prompts_and_several_completions() -> None:
    options = ("--max-tokens", "8", "--ignore-eos", "--seed", "1")
    both = generate("one", "two", *options)
    assert both.stdout == generate("one", *options).stdout + generate("two", *options).stdout
    three = generate("one", "--n", "3", *options)
    assert len(three.stdout.splitlines()) >= 3


def test_stop_strings_end_the_text() -> None:
    options = ("The quick brown fox", "--max-tokens", "40", "--ignore-eos", *GREEDY)
    text = generate(*options).stdout
    stop = text[8:10]
    assert generate(*options, "--stop", stop).stdout == text[: text.index(stop)] + "\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    command = f"{sys.executable} -m rustllm generate a --model {CHAT_LLAMA} --max-tokens 400"
    result = subprocess.run(
        ["bash", "-c", f"{command} --ignore-eos | head -c 1"],
        capture_output=True,
        timeout=TIMEOUT,
    )
    assert (len(result.stdout), result.stderr) == (1, b"")


def test_chat_answers_each_line_of_a_pipe() -> None:
    chat = reference_completion()
    question = chat["messages"][0]["content"]
    options = ("--model", str(CHAT_LLAMA), "--max-tokens", "48", *GREEDY)
    once = rustllm("chat", *options, stdin=question)
    assert once.returncode == 0, once.stderr
    left_out = chat["text"].removeprefix(once.stdout.removesuffix("\n"))
    assert left_out in ("", "\ufffd"), "all but an unfinished character at the end"
    assert once.stderr == ""
    again = rustllm("chat", *options, stdin=f"{question}\n/reset\n\n{question}\n/exit\nmore\n")
    assert again.stdout == once.stdout * 2
    longer = rustllm("chat", *options, stdin=f"{question}\n{question}\n")
    assert longer.stdout.startswith(once.stdout)
    assert longer.stdout != once.stdout * 2


def test_chat_without_a_template_says_so(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(CHAT_LLAMA, model)
    path = model / "tokenizer_config.json"
    config = json.loads(path.read_text())
    template = config.pop("chat_template")
    path.write_text(json.dumps(config))
    result = rustllm("chat", "--model", str(model), stdin="hello\n")
    assert (result.returncode, result.stdout) == (1, "")
    assert "--chat-template" in result.stderr.splitlines()[-1]
    given = tmp_path / "template.jinja"
    given.write_text(template)
    options = ("--chat-template", str(given), "--max-tokens", "4", "--seed", "1")
    with_template = rustllm("chat", "--model", str(model), *options, stdin="hello\n")
    own = rustllm("chat", "--model", str(CHAT_LLAMA), *options[2:], stdin="hello\n")
    assert with_template.stdout == own.stdout != ""


class Terminal:
    """`rustllm` on a pseudo-terminal."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "rustllm", *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "dumb"},
        )
        os.close(slave)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, pattern: str) -> str:
        """Reads until `pattern` appears."""
        seen = ""
        deadline = time.monotonic() + TIMEOUT
        while not re.search(pattern, seen):
            assert time.monotonic() < deadline, seen
            if select.select([self._master], [], [], 0.1)[0]:
                try:
                    seen += os.read(self._master, 4096).decode(errors="replace")
                except OSError:
                    break
        assert re.search(pattern, seen), seen
        return seen

    def close(self) -> int:
        try:
            return self.process.wait(TIMEOUT)
        finally:
            self.process.kill()
            os.close(self._master)


def test_chat_on_a_terminal_interrupts_answers_and_leaves_on_end_of_input() -> None:
    terminal = Terminal("chat", "--model", str(CHAT_LLAMA), *ENDLESS)
    terminal.until("> ")
    terminal.type("hello\n")
    terminal.until(r"hello\r?\n[\s\S]{20}")
    os.kill(terminal.process.pid, signal.SIGINT)
    terminal.until(r"\n> $")
    terminal.type("/nonsense\n")
    terminal.until("/reset forgets")
    terminal.type("/reset\n")
    terminal.until("> ")
    terminal.type("\x04")
    assert terminal.close() == 0


def test_interrupting_a_generation_ends_with_status_130() -> None:
    terminal = Terminal("generate", "hello", "--model", str(CHAT_LLAMA), *ENDLESS)
    terminal.until(r"[\s\S]{20}")
    os.kill(terminal.process.pid, signal.SIGINT)
    assert terminal.close() == 130


def test_bench_latency_reports_json() -> None:
    sizes = ("--input-len", "8", "--output-len", "4", "--batch-size", "2")
    counts = ("--num-iters", "3", "--num-iters-warmup", "1", "--output-json", "-")
    result = rustllm("bench", "latency", "--model", str(CHAT_LLAMA), *sizes, *counts)
    report = json.loads(result.stdout)
    assert len(report["latencies"]) == 3
    assert min(report["latencies"]) <= report["percentiles"]["50"] <= max(report["latencies"])
    assert report["avg_latency"] == pytest.approx(sum(report["latencies"]) / 3)


@pytest.mark.parametrize(("flags", "found"), [((), 0), (("--enable-prefix-caching",), 2 * 16)])
def test_bench_latency_computes_every_prompt_anew_unless_told(
    flags: tuple[str, ...], found: int
) -> None:
    sizes = ("--input-len", "20", "--output-len", "1", "--batch-size", "1", *flags)
    counts = ("--num-iters", "2", "--num-iters-warmup", "1", "--output-json", "-")
    result = rustllm("bench", "latency", "--model", str(CHAT_LLAMA), *sizes, *counts)
    assert json.loads(result.stdout)["prefix_cache_hits"] == found, result.stderr


def test_bench_throughput_counts_tokens(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    sizes = ("--num-prompts", "5", "--input-len", "8", "--output-len", "4")
    result = rustllm(
        "bench", "throughput", "--model", str(CHAT_LLAMA), *sizes, "--output-json", str(path)
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(path.read_text())
    assert (report["num_requests"], report["total_num_tokens"]) == (5, 60)
    assert report["tokens_per_second"] == pytest.approx(60 / report["elapsed_time"])
    assert "tokens_per_second" in result.stdout


def test_bench_startup_measures_fresh_processes() -> None:
    model = ("--model", str(CHAT_LLAMA))
    result = rustllm("bench", "startup", *model, "--num-iters", "2", "--output-json", "-")
    report = json.loads(result.stdout)
    assert len(report["startup_times"]) == 2
    assert report["startup_time"] > report["import_time"] > 0
    assert report["startup_time"] > report["python_time"] > 0


def test_doctor_tells_what_it_finds() -> None:
    from rustllm import _core

    result = rustllm("doctor", "--json")
    assert result.returncode == 0, result.stdout
    findings = json.loads(result.stdout)
    assert findings["cpu"]["instruction sets"] == _core.available_isas()
    assert findings["cpu"]["instruction set used"] == _core.selected_isa()
    assert findings["models"]["architectures"] == _core.supported_architectures()
    assert findings["libraries"]["tokenizers"]
    assert findings["problems"] == []
    text = rustllm("doctor").stdout
    error = _core.cuda_info()["error"]
    assert error is None or sum(error in line for line in text.splitlines()) == 1
    assert "LlamaForCausalLM" in text


def test_doctor_names_a_problem() -> None:
    result = rustllm("doctor", RUSTLLM_ISA="no-such-isa")
    assert result.returncode == 1
    assert "no-such-isa" in result.stdout
