"""`rustllm embed`, `classify` and `rerank`: lines in, JSONL out."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from rustllm import LLM
from rustllm.cli import main

TEXTS = ["abc def", "hello", "a b c"]


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> list[dict[str, Any]]:
    status = main([*map(str, arguments), "--dtype", "float32"])
    captured = capsys.readouterr()
    assert (status, captured.err) == (0, "")
    return [json.loads(line) for line in captured.out.splitlines()]


def test_embeds_lines_of_text(
    capsys: pytest.CaptureFixture[str], sentence_model: Path, tmp_path: Path
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS) + "\n")
    lines = run(capsys, "embed", source, "--model", sentence_model, "--dimensions", "8")
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert [len(line["embedding"]) for line in lines] == [8, 8, 8]
    named = run(capsys, "embed", source, "--model", sentence_model, "--prompt-name", "query")
    expected = LLM(str(sentence_model), dtype="float32").embed(TEXTS, prompt_name="query")
    found = [line["embedding"] for line in named]
    assert found == [output.outputs.embedding for output in expected]


def test_classifies_json_from_stdin(
    capsys: pytest.CaptureFixture[str], classifier: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = [json.dumps({"id": f"n{i}", "body": text}) for i, text in enumerate(TEXTS)]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    found = run(capsys, "classify", "--model", classifier, "--text-field", "body")
    assert [line["id"] for line in found] == ["n0", "n1", "n2"]
    for line in found:
        assert line["label"] == f"LABEL_{line['probs'].index(max(line['probs']))}"


def test_ranks_lines(
    capsys: pytest.CaptureFixture[str], cross_encoder: Path, tmp_path: Path
) -> None:
    source = tmp_path / "texts.txt"
    source.write_text("\n".join(TEXTS))
    lines = run(capsys, "rerank", "abc", source, "--model", cross_encoder)
    scores = [line["relevance_score"] for line in lines]
    assert scores == sorted(scores, reverse=True)
    assert sorted(line["document"] for line in lines) == sorted(TEXTS)
    best = run(capsys, "rerank", "abc", source, "--model", cross_encoder, "--top-n", "1")
    assert best == lines[:1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "a"}\n{"txt": "b"}\n', "line 2 is no JSON object with a string in its field"),
        ('{"text": "a"}\nplain\n', "line 2 is not JSON"),
    ],
)
def test_bad_lines_are_named(
    capsys: pytest.CaptureFixture[str],
    sentence_model: Path,
    tmp_path: Path,
    content: str,
    message: str,
) -> None:
    source = tmp_path / "texts.jsonl"
    source.write_text(content)
    with pytest.raises(SystemExit) as stopped:
        main(["embed", str(source), "--model", str(sentence_model)])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_a_missing_file_is_told_before_a_model_is_loaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["embed", "missing.txt", "--model", "missing/model"])
    assert "cannot read missing.txt: No such file" in capsys.readouterr().err
