"""A WordPiece tokenizer, checkpoints for it, and what the pipelines of transformers return.

python tools/goldens/pipeline_goldens.py              # rewrites their folders in tests/goldens/
python tools/goldens/pipeline_goldens.py --only pipeline_qa   # one of them

Question answering is left to an environment with transformers 4.57, the last that has it.
"""

# ruff: noqa: E402  (the environment has to be set before the libraries are imported)

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false"
)
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np
import torch
import transformers
from encoder_cases import PoolingCase
from encoder_goldens import save_model
from encoding_references import encoding_reference
from pipeline_cases import PIPELINE_CASES, Call, PipelineCase
from reference_file import write_json
from wordpiece_built import save_wordpiece_tokenizer

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"
WORDPIECE = "wordpiece"
VERSION = int(transformers.__version__.split(".")[0])


def make_tokenizer(folder: Path) -> None:
    """The tokenizer, with what it and the others make of texts."""
    save_wordpiece_tokenizer(folder)
    folders = (folder, *(GOLDENS / name for name in ("chat_llama", "tokenizer_spm")))
    references = {"tokenizers": [encoding_reference(each) for each in folders]}
    write_json(folder / "encoding_reference.json", references)


def make(case: PipelineCase) -> None:
    """A checkpoint, if the case has its own, and the results of the calls."""
    folder = GOLDENS / case.name
    folder.mkdir(exist_ok=True)
    if isinstance(case.model, PoolingCase):
        save_model(case.model, folder)
    if case.tokenizer == case.name:
        save_wordpiece_tokenizer(folder)
    model = case.model if isinstance(case.model, str) else case.name
    reference = {
        "task": case.task,
        "model": model,
        "tokenizer": case.tokenizer,
        "transformers": transformers.__version__,
        "calls": [run(case, GOLDENS / model, call) for call in case.calls],
    }
    write_json(folder / "pipeline_reference.json", reference)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{case.name:20} {size / 1024:4.0f} KiB  {len(case.calls)} calls", flush=True)


def run(case: PipelineCase, model: Path, call: Call) -> dict[str, Any]:
    """What a new pipeline returns for a call."""
    pipe = transformers.pipeline(
        case.task,
        model=str(model),
        tokenizer=str(GOLDENS / case.tokenizer),
        device="cpu",
        dtype=torch.float32,
        **call.defaults,
    )
    result = pipe(call.inputs, **call.options)
    fields = {"inputs": call.inputs, "options": dict(call.options), "defaults": dict(call.defaults)}
    return {**fields, "result": plain(result)}


def plain(value: Any) -> Any:
    """Python's own numbers in place of NumPy's."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, (np.generic, torch.Tensor)) else value


def main() -> None:
    """Write the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="*", help="names of the folders to make")
    only = parser.parse_args().only
    if not only and VERSION > 4:
        make_tokenizer(GOLDENS / WORDPIECE)
    for case in PIPELINE_CASES:
        if case.name in only if only else case.last_version >= VERSION:
            make(case)


if __name__ == "__main__":
    main()
