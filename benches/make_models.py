"""Make the models that engines are measured with: real shapes, random weights, nothing downloaded.

    python make_models.py FOLDER qwen2.5-0.5b-shape llama-3.2-1b-shape
    python make_models.py FOLDER llama-3.1-8b-shape --no-tokenizer

Each is a folder in FOLDER, with config.json, model.safetensors and a tokenizer; a checkpoint that
is there already, as large as it is to be, is kept. Needs numpy, and tokenizers for those. The
weights are gaussian (standard deviation 0.02, norms 1) and repeat every 16 million: for speed,
shapes and dtypes are all that counts.
"""

from __future__ import annotations

import argparse
import json
import struct
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CONFIGS: Final[dict[str, dict[str, Any]]] = {
    "tiny-shape": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "vocab_size": 512,
        "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
    "qwen2.5-0.5b-shape": {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": 896,
        "intermediate_size": 4864,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "use_sliding_window": False,
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
    },
    "llama-3.2-1b-shape": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": True,
    },
    "llama-3.1-8b-shape": {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 128256,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
    },
}
"""What the models' config.json say, by the names of their folders; the tiny one is to see that what
measures them runs."""

SHARED: Final[dict[str, Any]] = {
    "hidden_act": "silu",
    "initializer_range": 0.02,
    "torch_dtype": "bfloat16",
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "use_cache": True,
}

END: Final = "<|endoftext|>"

TOKENIZER_SIZE: Final = 32000
"""Entries of the tokenizer, enough to take as long to load as real ones do."""

WORD_SPLIT: Final = r" ?\p{L}+| ?\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"

CORPUS_CHARACTERS: Final = 8_000_000


def tensor_shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a checkpoint's tensors, as Hugging Face names them."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    head_dim = config.get("head_dim", hidden // heads)
    widths = {"q": heads * head_dim, "k": config["num_key_value_heads"] * head_dim}
    widths["v"] = widths["k"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        for name, width in widths.items():
            yield f"{layer}.self_attn.{name}_proj.weight", (width, hidden)
            if config["model_type"] == "qwen2":
                yield f"{layer}.self_attn.{name}_proj.bias", (width,)
        yield f"{layer}.self_attn.o_proj.weight", (hidden, widths["q"])
        for name in ("gate", "up"):
            yield f"{layer}.mlp.{name}_proj.weight", (config["intermediate_size"], hidden)
        yield f"{layer}.mlp.down_proj.weight", (hidden, config["intermediate_size"])
        yield f"{layer}.input_layernorm.weight", (hidden,)
        yield f"{layer}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    if not config["tie_word_embeddings"]:
        yield "lm_head.weight", (config["vocab_size"], hidden)


def bfloat16_bytes(values: np.ndarray[Any, np.dtype[np.float32]]) -> bytes:
    """The upper halves of float32 values, rounded to the nearest even."""
    bits = values.view(np.uint32)
    bits = bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))
    return (bits >> np.uint32(16)).astype("<u2").tobytes()


def values(length: int, deviation: float, mean: float) -> bytes:
    """Gaussian numbers in bfloat16."""
    noise = np.random.default_rng(0).standard_normal(length, dtype=np.float32)
    return bfloat16_bytes(noise * np.float32(deviation) + np.float32(mean))


def write_safetensors(path: Path, config: dict[str, Any]) -> int:
    """Writes the checkpoint piece by piece, so that it never is in memory whole.

    Returns:
        The number of parameters.
    """
    shapes = dict(tensor_shapes(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    if path.exists() and path.stat().st_size == 8 + len(text) + end:
        return end // 2
    norms, biases, weights = values(1 << 16, 0.0, 1.0), bytes(1 << 17), values(1 << 24, 0.02, 0.0)
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            is_norm, is_bias = name.endswith("norm.weight"), name.endswith(".bias")
            source = norms if is_norm else biases if is_bias else weights
            left = 2 * int(np.prod(shape))
            while left > 0:
                left -= file.write(source[:left])
    unfinished.rename(path)
    return end // 2


def corpus() -> Iterator[str]:
    """Text to train a tokenizer on that every Python has: its standard library's sources."""
    characters = 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" in path.parts or "test" in path.parts:
            continue
        text = path.read_text(encoding="utf-8", errors="ignore")
        characters += len(text)
        yield text
        if characters > CORPUS_CHARACTERS:
            return


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=TOKENIZER_SIZE,
        show_progress=False,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Writes a file of the model's folder."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, tokenizer: Tokenizer, length: int) -> None:
    """Writes the tokenizer's files, for prompts of up to `length` tokens."""
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{f"{name}_token": END for name in ("bos", "eos", "pad")},
        "add_bos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": length,
        "chat_template": "{% for message in messages %}{{ message['content'] }}{% endfor %}",
    }
    write_json(folder / "tokenizer_config.json", settings)


def make_model(folder: Path, config: dict[str, Any], tokenizer: Tokenizer | None) -> int:
    """Makes one model's folder and returns its number of parameters."""
    folder.mkdir(parents=True, exist_ok=True)
    rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
    write_json(folder / "config.json", {**config, **SHARED, "rope_parameters": rope})
    ids = {f"{name}_token_id": 0 for name in ("bos", "eos", "pad")}
    write_json(folder / "generation_config.json", ids)
    if tokenizer is not None:
        write_tokenizer(folder, tokenizer, config["max_position_embeddings"])
    return write_safetensors(folder / "model.safetensors", config)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Make the models that engines are measured with.")
    parser.add_argument("folder", type=Path, help="folder to make their folders in")
    parser.add_argument("models", nargs="+", choices=list(CONFIGS))
    parser.add_argument(
        "--no-tokenizer", action="store_true", help="for engines that are given token ids"
    )
    arguments = parser.parse_args()
    tokenizer = None if arguments.no_tokenizer else make_tokenizer()
    for model in arguments.models:
        folder = arguments.folder / model
        print(f"{folder}: {make_model(folder, CONFIGS[model], tokenizer):,} parameters")


if __name__ == "__main__":
    main()
