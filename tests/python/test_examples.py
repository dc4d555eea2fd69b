"""Every script in examples/ runs and prints what it says it does."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
MODEL = {"embedding_search.py": "minilm", "entities.py": "pipeline_ner"}
"""Examples that need a model which is not in the wheel: the fixture that knows its folder."""
PRINTS = {
    "async_stream.py": ["first: ", "second: ", "\n---\n"],
    "embedding_search.py": [
        "Where do cats nap?\n  0.51  A kitten sleeps in the warm afternoon sun.",
        "What is the capital of Japan?\n  0.75  Tokyo is the capital",
    ],
    "entities.py": ["Marie Laveau", "Gdańsk", "LOC"],
    "generate.py": ["def fibonacci(n):", "class Stack:", "def list_files(path):"],
    "token_engine.py": ["greedy 0 [", "sampled 1 [", "came from the prefix cache"],
}


def test_every_example_is_run() -> None:
    assert {script.name for script in EXAMPLES.glob("*.py")} == set(PRINTS)


@pytest.mark.parametrize("name", PRINTS)
def test_example(name: str, request: pytest.FixtureRequest) -> None:
    command = [sys.executable, "-W", "error", str(EXAMPLES / name)]
    if name in MODEL:
        command.append(str(request.getfixturevalue(MODEL[name])))
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr == ""
    for text in PRINTS[name]:
        assert text in finished.stdout
