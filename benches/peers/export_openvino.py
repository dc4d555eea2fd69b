"""Export the models of make_models.py for OpenVINO, with weights as they are, in int8 and in int4.

    python export_openvino.py WORK
    python export_openvino.py WORK M1 --formats int8

Needs optimum-intel, nncf, torch and transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Final

from engines import FOLDERS, FORMATS

QUANTIZATION: Final[dict[str, dict[str, Any]]] = {
    "int8": {"bits": 8},
    "int4": {"bits": 4, "group_size": 32, "ratio": 1.0, "sym": True},
}


def export(model: Path, target: Path, weights: str) -> None:
    """Exports one model in one format."""
    from optimum.intel import OVModelForCausalLM, OVWeightQuantizationConfig

    quantization = QUANTIZATION.get(weights)
    options: dict[str, Any] = {"load_in_8bit": False}
    if quantization is not None:
        options = {"quantization_config": OVWeightQuantizationConfig(**quantization)}
    exported = OVModelForCausalLM.from_pretrained(model, export=True, compile=False, **options)
    exported.save_pretrained(target)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Export the models for OpenVINO.")
    parser.add_argument("work", type=Path, help="folder of models/; openvino-models/ is made in it")
    parser.add_argument("models", nargs="*", help="M1, M2; both if none is named")
    parser.add_argument("--formats", default=",".join(FORMATS), help="bf16,int8,int4")
    arguments = parser.parse_args()
    for model in arguments.models or FOLDERS:
        folder = arguments.work / "models" / FOLDERS[model]
        for weights in arguments.formats.split(","):
            target = arguments.work / "openvino-models" / f"{folder.name}-{weights}"
            if not target.exists():
                export(folder, target, weights)
                print(target)


if __name__ == "__main__":
    main()
