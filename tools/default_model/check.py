"""Load the exported folder with transformers: held-out perplexity and samples.

    python check.py ../../python/rustllm/default_model

It shares no model code with the training, so equal numbers mean the export is right.
"""

from __future__ import annotations

import argparse
import math

import torch
from corpus import collect
from data import CONTEXT, encode_stream
from evaluate import held_out_loss
from tokenizers import Tokenizer
from torch.nn import functional
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPTS = (
    "def fibonacci(n):",
    "class Stack:\n    def __init__(self, items):",
    "import os\n\ndef list_files(path):",
    'def is_prime(n):\n    """',
)


def print_perplexity(folder: str) -> None:
    """Print perplexity and bits per byte of the held-out files, the arithmetic in float32."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def loss(token_ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(token_ids).logits.float()
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten())

    documents = collect().held_out
    stream = encode_stream(Tokenizer.from_file(f"{folder}/tokenizer.json"), documents)
    nats = held_out_loss(loss, stream, CONTEXT)
    num_bytes = sum(len(document.encode()) for document in documents)
    bits = nats * (len(stream) - 1) / math.log(2) / num_bytes
    print(
        f"{len(documents)} files, {num_bytes} bytes, {len(stream)} tokens: "
        f"loss {nats:.4f} perplexity {math.exp(nats):.3f} bits/byte {bits:.4f}"
    )


def print_samples(folder: str, max_new_tokens: int) -> None:
    """Print a greedy and a random continuation of every prompt."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    for prompt in PROMPTS:
        inputs = tokenizer(prompt, return_tensors="pt", return_token_type_ids=False)
        for temperature in (0.0, 0.8):
            sampling = {"do_sample": True, "temperature": temperature} if temperature else {}
            output = model.generate(**inputs, max_new_tokens=max_new_tokens, **sampling)
            new_tokens = output.shape[1] - inputs["input_ids"].shape[1]
            print(f"----- temperature {temperature}, {new_tokens} tokens")
            print(tokenizer.decode(output[0], skip_special_tokens=True))
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Return the sum\nof two numbers."}], tokenize=False
    )
    print(f"----- chat prompt: {chat!r}")


def main() -> None:
    """Check the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Check an exported model with transformers.")
    parser.add_argument("folder")
    parser.add_argument("--max-new-tokens", type=int, default=120)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--samples-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if not arguments.samples_only:
        print_perplexity(arguments.folder)
    print_samples(arguments.folder, arguments.max_new_tokens)


if __name__ == "__main__":
    main()
