"""Make the golden test data: tiny seeded checkpoints, tokenizers, and reference outputs.

python tools/goldens/make_goldens.py            # rewrite tests/goldens/
python tools/goldens/make_goldens.py --only gemma gemma2   # rewrite these folders alone
python tools/goldens/make_goldens.py --check    # make all of it elsewhere and compare the bytes
"""

# ruff: noqa: E402  (the environment has to be set before the libraries are imported)

from __future__ import annotations

import argparse
import filecmp
import functools
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

# Before the imports: nothing here needs the network, and one thread gives one order of summation.
os.environ.update(
    HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TOKENIZERS_PARALLELISM="false"
)
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import fp8
import mxfp4
import numpy as np
import safetensors
import tokenizers
import torch
import transformers
from case import Case
from cases import CHAT_CASE, CHAT_VOCAB_SIZE, MODEL_CASES
from moe_cases import MOE_CASES
from reference_file import write_json
from references import make_reference
from selfcheck import check_folder
from text_references import chat_reference, completions, tokenizer_reference
from tokenizers_built import (
    CHATML,
    INST,
    build_chat_tokenizer,
    build_spm_tokenizer,
    save_tokenizer,
)
from weights import before_packing, save_model

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"
CHAT_MAX_TOKENS = 48
SPM_FOLDER = "tokenizer_spm"


def make_model(case: Case, folder: Path) -> None:
    """One checkpoint with its `reference.json`."""
    save_model(case, folder)
    reference = make_reference(case, folder)
    error, effect = check_folder(folder, reference)
    if case.mxfp4:
        mxfp4.pack_folder(folder)
    if case.fp8:
        fp8.pack_folder(folder, before_packing(case))
    reference["float64_error"] = np.float32(f"{error:.1e}")
    reference["prompts"] = reference.pop("prompts")  # last, being long
    write_json(folder / "reference.json", reference)
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(
        f"{case.name:24} {size / 1024:4.0f} KiB  margin {reference['min_margin']:.4f}"
        f"  error {error:.1e}  smallest effect of a mistake {effect:.2f}",
        flush=True,
    )


def make_chat_model(folder: Path) -> None:
    """The chat checkpoint: tokenizer, template, generation defaults, and their references."""
    save_tokenizer(
        build_chat_tokenizer(CHAT_VOCAB_SIZE),
        folder,
        {
            "bos_token": None,
            "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>",
            "unk_token": None,
        },
        chat_template=CHATML,
        add_bos_token=False,
    )
    make_model(CHAT_CASE, folder)
    generation = {
        "bos_token_id": 0,
        "do_sample": True,
        "eos_token_id": [2, 0],
        "pad_token_id": 0,
        "repetition_penalty": 1.05,
        "temperature": 0.7,
        "top_k": 20,
        "top_p": 0.8,
        "transformers_version": "4.51.3",
    }
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    specials = ("<|im_start|>", "<|im_end|>")
    write_json(folder / "tokenizer_reference.json", tokenizer_reference(folder, specials))
    chats = chat_reference(folder)
    chats["completions"] = completions(folder, chats["chats"], CHAT_MAX_TOKENS)
    write_json(folder / "chat_reference.json", chats)


def make_spm_tokenizer(folder: Path) -> None:
    """The SentencePiece-like tokenizer; its chat template lies in a file of its own."""
    save_tokenizer(
        build_spm_tokenizer(160),
        folder,
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": None, "unk_token": "<unk>"},
        legacy=False,
    )
    (folder / "chat_template.jinja").write_text(INST)
    write_json(folder / "tokenizer_reference.json", tokenizer_reference(folder, ("<s>", "</s>")))
    write_json(folder / "chat_reference.json", chat_reference(folder))


def write_manifest(folder: Path) -> None:
    """List the cases and the versions that made them."""
    libraries = (np, safetensors, tokenizers, torch, transformers)
    cases = [
        {
            "name": case.name,
            "why": case.why,
            "architecture": json.loads((folder / case.name / "config.json").read_text())[
                "architectures"
            ][0],
            "checkpoint_dtype": case.dtype,
            "config_spelling": case.spelling,
            "num_weight_files": case.num_shards,
        }
        for case in (*MODEL_CASES, *MOE_CASES, CHAT_CASE)
    ]
    versions = {module.__name__: module.__version__.split("+")[0] for module in libraries}
    made_with = {"python": platform.python_version(), **versions}
    write_json(
        folder / "manifest.json",
        {"made_with": made_with, "models": cases, "tokenizers": [CHAT_CASE.name, SPM_FOLDER]},
    )


def make_all(target: Path, only: list[str] | None = None) -> None:
    """Write every case below `target`, or `only` those named, replacing no others."""
    jobs: dict[str, Callable[[Path], None]] = {
        case.name: functools.partial(make_model, case) for case in (*MODEL_CASES, *MOE_CASES)
    }
    jobs |= {CHAT_CASE.name: make_chat_model, SPM_FOLDER: make_spm_tokenizer}
    for old in target.iterdir():
        if old.name in jobs and (only is None or old.name in only):
            shutil.rmtree(old)
    for name, job in jobs.items():
        if only is None or name in only:
            job(target / name)
    write_manifest(target)


def differences(stored: Path, made: Path) -> list[str]:
    """Files that were made and are not stored, or differ in a byte, or stand beside those made."""
    folders = {path.name for path in made.iterdir() if path.is_dir()} | {"manifest.json"}
    names = {
        path.relative_to(top)
        for top in (stored, made)
        for path in top.rglob("*")
        if path.is_file() and path.relative_to(top).parts[0] in folders
    }

    def same(name: Path) -> bool:
        a, b = stored / name, made / name
        return a.is_file() and b.is_file() and filecmp.cmp(a, b, shallow=False)

    return sorted(str(name) for name in names if not same(name))


def main() -> int:
    """Run from the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="compare with what is stored, change nothing"
    )
    parser.add_argument("--only", nargs="+", metavar="CASE", help="rewrite these folders alone")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    transformers.utils.logging.disable_progress_bar()
    if not arguments.check:
        GOLDENS.mkdir(parents=True, exist_ok=True)
        make_all(GOLDENS, arguments.only)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        make_all(Path(temporary))
        different = differences(GOLDENS, Path(temporary))
    print("\n".join(f"differs: {name}" for name in different) or "identical")
    return 1 if different else 0


if __name__ == "__main__":
    raise SystemExit(main())
