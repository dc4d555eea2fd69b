"""Write a checkpoint as a Hugging Face model folder, beside its ``tokenizer.json``.

The weights are rounded to bfloat16; everything else transformers needs is written too:

    python export.py --checkpoint run/checkpoint.pt --output ../../python/rustllm/default_model
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from train_tokenizer import END_OF_TEXT

MAX_FILE_BYTES = 12_000_000

# Chat is a Python file under way: what the user says is a comment, what the model said is code.
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}{{ message['content'] }}\n\n\n"
    "{% else %}# {{ message['content'] | replace('\n', '\n# ') }}\n"
    "{% endif %}{% endfor %}"
)


def model_config(shape: dict[str, int | float], end_of_text_id: int) -> dict[str, object]:
    """Return ``config.json`` for a model of the shape saved with the checkpoint."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        **shape,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "use_cache": True,
        "bos_token_id": end_of_text_id,
        "eos_token_id": end_of_text_id,
        "torch_dtype": "bfloat16",
    }


def tokenizer_config(max_length: int) -> dict[str, object]:
    """Return ``tokenizer_config.json``."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "pad_token": END_OF_TEXT,
        "unk_token": None,
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }


def generation_config(end_of_text_id: int) -> dict[str, object]:
    """Return ``generation_config.json``: ids, and sampling that avoids greedy decoding's loops."""
    return {
        "bos_token_id": end_of_text_id,
        "do_sample": True,
        "eos_token_id": end_of_text_id,
        "pad_token_id": end_of_text_id,
        "temperature": 0.4,
        "top_p": 0.9,
    }


def write_json(path: Path, content: dict[str, object]) -> None:
    """Write ``content`` with two spaces of indentation."""
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Export the checkpoint named on the command line."""
    parser = argparse.ArgumentParser(description="Write a Hugging Face model folder.")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder with tokenizer.json")
    output: Path = (arguments := parser.parse_args()).output
    state = torch.load(arguments.checkpoint, weights_only=True)
    end_of_text_id = Tokenizer.from_file(str(output / "tokenizer.json")).token_to_id(END_OF_TEXT)

    tensors = {name: t.to(torch.bfloat16).contiguous() for name, t in state["model"].items()}
    weights = output / "model.safetensors"
    save_file(tensors, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    size = weights.stat().st_size
    if size > MAX_FILE_BYTES:
        raise SystemExit(f"{weights} has {size} bytes; at most {MAX_FILE_BYTES} are allowed")

    shape = state["config"]
    write_json(output / "config.json", model_config(shape, end_of_text_id))
    max_length = shape["max_position_embeddings"]
    write_json(output / "tokenizer_config.json", tokenizer_config(max_length))
    write_json(output / "generation_config.json", generation_config(end_of_text_id))
    license_file = Path(sysconfig.get_paths()["stdlib"]) / "LICENSE.txt"
    (output / "LICENSE").write_bytes(license_file.read_bytes())
    print(f"step {state['step']}: {len(tensors)} tensors, {size} bytes")


if __name__ == "__main__":
    main()
