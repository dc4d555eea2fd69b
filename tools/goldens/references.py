"""Reference outputs of a model folder: greedy tokens and log probabilities, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from case import NUM_GREEDY_TOKENS, Case
from transformers import AutoModelForCausalLM, PreTrainedModel
from weights import rng_for

MIN_MARGIN = 1e-3
"""A path on which the two best logits come closer is rejected: rounding could swap them."""

MIN_DISTINCT_TOKENS = 12
"""A continuation with fewer different tokens than this is rejected: it would prove little."""

MAX_ATTEMPTS = 50


@dataclass(frozen=True)
class GreedyPath:
    """One prompt and what the model makes of it."""

    prompt: list[int]
    greedy: list[int]
    logprobs: torch.Tensor  # [len(prompt) + len(greedy) - 1, vocab]

    def margins(self) -> torch.Tensor:
        """Lead of the best token over the second, at each greedy step."""
        best = self.logprobs[len(self.prompt) - 1 :].topk(2).values
        return best[:, 0] - best[:, 1]


def load_float32(folder: Path, attention: str = "eager") -> PreTrainedModel:
    """Load a folder as a user would, weights widened to float32, plain attention by default."""
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    )
    model.eval()
    return model


def greedy(
    model: PreTrainedModel, prompt: Sequence[int], count: int, stop: Sequence[int] = ()
) -> list[int]:
    """Greedy tokens, one by one through the key-value cache: `count`, or up to a stop token."""
    tokens: list[int] = []
    step, cache = list(prompt), None
    with torch.no_grad():
        while len(tokens) < count and not (tokens and tokens[-1] in stop):
            out = model(torch.tensor([step]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            tokens.append(int(out.logits[0, -1].argmax()))
            step = tokens[-1:]
    return tokens


def _fit_path(model: PreTrainedModel, case: Case, length: int) -> GreedyPath:
    """The first seeded prompt of this length whose continuation is fit for comparison."""
    for attempt in range(MAX_ATTEMPTS):
        rng = rng_for("prompt", case.name, length, attempt)
        # Special tokens (ids 0 to 2) stay out of the prompts.
        vocab_size = model.config.get_text_config().vocab_size
        prompt = [int(i) for i in rng.integers(3, vocab_size, length)]
        path = follow(model, prompt, greedy(model, prompt, NUM_GREEDY_TOKENS))
        top6 = path.logprobs[length - 1].topk(6).values
        if (
            float(path.margins().min()) >= MIN_MARGIN
            and float((top6[:-1] - top6[1:]).min()) >= MIN_MARGIN
            and len(set(path.greedy)) >= MIN_DISTINCT_TOKENS
        ):
            return path
    raise RuntimeError(f"{case.name}: no fit prompt of length {length} in {MAX_ATTEMPTS} attempts")


def follow(model: PreTrainedModel, prompt: list[int], tokens: list[int]) -> GreedyPath:
    """Recompute a greedy path in one forward pass without a cache, and check that it is greedy."""
    with torch.no_grad():
        logits = model(torch.tensor([prompt + tokens[:-1]]), use_cache=False).logits[0]
    path = GreedyPath(prompt, tokens, torch.log_softmax(logits.float(), -1))
    clear = path.margins() >= MIN_MARGIN
    best = path.logprobs[len(prompt) - 1 :].argmax(-1)
    if bool((best != torch.tensor(tokens))[clear].any()):
        raise RuntimeError("the greedy tokens with and without a cache differ")
    return path


def _floats(values: torch.Tensor) -> np.ndarray:
    floats: np.ndarray = values.numpy().astype(np.float32)
    return floats


def _entry(path: GreedyPath) -> dict[str, Any]:
    """One element of `prompts` in `reference.json`."""
    length = len(path.prompt)
    following = torch.tensor((path.prompt + path.greedy)[1:])
    chosen = path.logprobs.gather(1, following[:, None])[:, 0]
    top = path.logprobs[length - 1].topk(5)
    return {
        "prompt_token_ids": path.prompt,
        "prompt_logprobs": _floats(chosen[: length - 1]),
        "top5_token_ids": top.indices.tolist(),
        "top5_logprobs": _floats(top.values),
        "greedy_token_ids": path.greedy,
        "greedy_logprobs": _floats(chosen[length - 1 :]),
        "min_margin": np.float32(path.margins().min()),
    }


def make_reference(case: Case, folder: Path) -> dict[str, Any]:
    """The contents of `reference.json`, computed from the folder as it lies on disk."""
    model = load_float32(folder, case.attention)
    paths = [_fit_path(model, case, length) for length in case.prompt_lengths]
    return {
        "case": case.name,
        "why": case.why,
        "checkpoint_dtype": case.dtype,
        "compute_dtype": "float32",
        "num_greedy_tokens": NUM_GREEDY_TOKENS,
        **({"max_model_len": case.max_model_len} if case.max_model_len else {}),
        "min_margin": min(np.float32(path.margins().min()) for path in paths),
        "logprob_std": np.float32(torch.cat([p.logprobs for p in paths]).std(-1).mean()),
        "prompts": [_entry(path) for path in paths],
    }
