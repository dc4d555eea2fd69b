"""One engine with an encoder: texts in, normalized embeddings out, as a user would get them.

Answers `{"texts": [...]}` with `{"value": seconds}`, and with the embeddings if `"embeddings"` is
set. Every engine tokenizes the texts itself, float32 throughout.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from runners.protocol import Replies

Vectors = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Vectors]

BATCH: Final = 32
"""Texts that padding engines take at once, of similar length: sentence-transformers' default."""


def rustllm(model: Path, threads: int) -> Embed:
    """All texts at once: there is no padding."""
    from rustllm import LLM

    llm = LLM(model=model, dtype="float32", num_threads=threads)

    def embed(texts: list[str]) -> Vectors:
        outputs = llm.embed(texts, use_tqdm=False)
        return np.array([output.outputs.embedding for output in outputs], np.float32)

    return embed


def sentence_transformers(model: Path, threads: int) -> Embed:
    """On torch; sorts by length and pads within batches."""
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)
    encoder = SentenceTransformer(str(model), device="cpu")

    def embed(texts: list[str]) -> Vectors:
        vectors: Vectors = encoder.encode(
            texts, batch_size=BATCH, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors

    return embed


def onnxruntime(model: Path, threads: int) -> Embed:
    """The exported graph, batched as sentence-transformers does, with mean pooling."""
    import onnxruntime as ort
    from tokenizers import Tokenizer

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    session = ort.InferenceSession(model / "model.onnx", options, ["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.enable_padding()
    limit = json.loads((model / "sentence_bert_config.json").read_text(encoding="utf-8"))
    tokenizer.enable_truncation(limit["max_seq_length"])

    def embed_batch(texts: list[str]) -> Vectors:
        encodings = tokenizer.encode_batch(texts)
        ids = np.array([encoding.ids for encoding in encodings], np.int64)
        mask = np.array([encoding.attention_mask for encoding in encodings], np.int64)
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (hidden,) = session.run(["hidden"], feeds)
        summed = (hidden * mask[..., None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        vectors: Vectors = summed / np.linalg.norm(summed, axis=1, keepdims=True)
        return vectors

    def embed(texts: list[str]) -> Vectors:
        order = sorted(range(len(texts)), key=lambda i: -len(texts[i]))
        batches = [order[i : i + BATCH] for i in range(0, len(order), BATCH)]
        vectors = np.concatenate([embed_batch([texts[i] for i in batch]) for batch in batches])
        restored = np.empty_like(vectors)
        restored[order] = vectors
        return restored

    return embed


ENGINES: Final[dict[str, Callable[[Path, int], Embed]]] = {
    "rustllm": rustllm,
    "sentence-transformers": sentence_transformers,
    "onnxruntime": onnxruntime,
}


def main() -> None:
    """Loads an engine and answers requests until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model", type=Path)
    parser.add_argument("threads", type=int)
    arguments = parser.parse_args()
    replies = Replies()
    try:
        embed = ENGINES[arguments.engine](arguments.model, arguments.threads)
        replies.send({"ready": True})
    except Exception as error:
        replies.send({"error": f"{type(error).__name__}: {error}"})
        return
    for line in sys.stdin:
        request: dict[str, Any] = json.loads(line)
        begin = time.perf_counter()
        vectors = embed(request["texts"])
        reply: dict[str, Any] = {"value": time.perf_counter() - begin}
        if request.get("embeddings"):
            reply["embeddings"] = vectors.tolist()
        replies.send(reply)


if __name__ == "__main__":
    main()
