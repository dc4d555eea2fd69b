"""Convert the models of make_models.py to GGUF: BF16, then Q8_0, Q4_0 and Q4_K_M made from it.

    python make_gguf.py WORK --llama-source llama.cpp --llama-bin llama.cpp/build/bin

The interpreter needs what llama.cpp's converter needs: torch, transformers, gguf.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Final

QUANTIZED: Final = ("Q8_0", "Q4_0", "Q4_K_M")

CONVERT: Final = """
import runpy, sys
sys.path.insert(0, sys.argv[1])
from conversion import base
base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen2"
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
"""Runs llama.cpp's converter, which refuses tokenizers that it has no fingerprint of."""


def convert(folder: Path, target: Path, llama_source: Path) -> None:
    """Makes the BF16 file of one model."""
    script = llama_source / "convert_hf_to_gguf.py"
    part = target.with_suffix(".part")
    options = [str(folder), "--outtype", "bf16", "--outfile", str(part)]
    command = [sys.executable, "-c", CONVERT, str(llama_source), str(script), *options]
    subprocess.run(command, check=True)
    part.rename(target)


def quantize(program: Path, source: Path, target: Path, kind: str) -> None:
    """Makes a quantized file; one that was interrupted does not pass for whole."""
    part = target.with_suffix(".part")
    subprocess.run([program, source, part, kind], check=True)
    part.rename(target)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Convert the models to GGUF.")
    parser.add_argument("work", type=Path, help="folder that holds models/; gguf/ is made in it")
    parser.add_argument("--llama-source", type=Path, required=True, help="llama.cpp's sources")
    parser.add_argument("--llama-bin", type=Path, required=True, help="folder of llama-quantize")
    arguments = parser.parse_args()
    gguf = arguments.work / "gguf"
    gguf.mkdir(exist_ok=True)
    for folder in sorted((arguments.work / "models").iterdir()):
        source = gguf / f"{folder.name}-BF16.gguf"
        if not source.exists():
            convert(folder, source, arguments.llama_source)
        for kind in QUANTIZED:
            target = gguf / f"{folder.name}-{kind}.gguf"
            if not target.exists():
                quantize(arguments.llama_bin / "llama-quantize", source, target, kind)


if __name__ == "__main__":
    main()
