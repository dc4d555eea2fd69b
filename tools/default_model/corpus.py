"""The training text: Python sources of the standard library of the running interpreter.

Two kinds of documents are made of the same files:

- files, as they stand: ``train`` (about 97 %) and ``held_out`` (about 3 %), split by a hash of the
  path relative to the library, so that the split never depends on the order of a directory listing;
- snippets: single functions, methods and small classes of the *training* files, dedented. They
  teach the model to end a definition with the end-of-text token, which whole files hardly show.
"""

from __future__ import annotations

import ast
import hashlib
import sysconfig
import textwrap
from dataclasses import dataclass
from pathlib import Path

EXCLUDED_DIRECTORIES = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idle_test",
        "lib-dynload",
        "encodings",  # generated character tables
        "pydoc_data",  # documentation quoted as string literals, not code
        "ensurepip",  # bundles third-party wheels
    }
)
EXCLUDED_FILES = frozenset({"stringprep.py", "html/entities.py", "this.py", "keyword.py"})
HELD_OUT_PERCENT = 3
SNIPPET_BYTES = range(80, 1600)


@dataclass(frozen=True)
class Corpus:
    """Documents as text; ``held_out`` shares no file with ``train`` and ``snippets``."""

    train: list[str]
    held_out: list[str]
    snippets: list[str]


def is_held_out(relative_path: str) -> bool:
    """Tell the side of the split a file is on, from its path alone."""
    digest = hashlib.sha256(relative_path.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


def is_wanted(relative: Path) -> bool:
    """Tell whether a file is hand-written library source, not a test, a table or a build record."""
    in_excluded = any(
        part in EXCLUDED_DIRECTORIES or part.startswith("config-") for part in relative.parts[:-1]
    )
    is_build_record = relative.name.startswith("_sysconfigdata")
    return not (in_excluded or is_build_record or relative.as_posix() in EXCLUDED_FILES)


def snippets_of(source: str) -> list[str]:
    """Return the functions, methods and small classes of one file, each dedented."""
    try:
        tree = ast.parse(source)
    except SyntaxError:  # templates such as those of lib2to3
        return []
    lines = source.splitlines(keepends=True)
    snippets = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        text = textwrap.dedent("".join(lines[first - 1 : node.end_lineno])).rstrip() + "\n"
        if len(text.encode()) in SNIPPET_BYTES:
            snippets.append(text)
    return snippets


def collect(library: Path | None = None) -> Corpus:
    """Read the standard library at ``library`` (default: the running interpreter's)."""
    library = library or Path(sysconfig.get_paths()["stdlib"])
    corpus = Corpus([], [], [])
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if not is_wanted(relative):
            continue
        try:
            source = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        if not source.strip():
            continue
        if is_held_out(relative.as_posix()):
            corpus.held_out.append(source)
        else:
            corpus.train.append(source)
            corpus.snippets.extend(snippets_of(source))
    return corpus
