"""The Python in docs/pooling.md runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent.parent / "docs" / "pooling.md"


def test_the_examples_of_the_page_run(minilm: Path) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    names = {"MODEL": str(minilm)}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
