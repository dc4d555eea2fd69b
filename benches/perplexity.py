"""What a weight format costs: perplexity of a model on a text, in every format, in one table.

Usage: `python benches/perplexity.py [--model FOLDER] [--text FILE]... [--max-tokens N]`

Without `--text` it is the held-out text of the built-in model (see tools/default_model). The text
is cut into windows that see nothing of one another; perplexity is per token, over all tokens but
each window's first.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from rustllm import LLM, SamplingParams


def _int4(group_size: int, symmetric: bool = True) -> dict[str, Any]:
    config = {"group_size": group_size, "symmetric": symmetric}
    return {"dtype": "bfloat16", "quantization": "int4", "quantization_config": config}


FORMATS: Final[dict[str, dict[str, Any]]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "bfloat16", "quantization": "int8"},
    "int4, groups of 32": _int4(32),
    "int4, groups of 64": _int4(64),
    "int4, groups of 128": _int4(128),
    "int4, groups of 32, zero points": _int4(32, symmetric=False),
    "int4, groups of 128, zero points": _int4(128, symmetric=False),
}
"""Arguments of the engine by the name in the table."""


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--model", default="default")
    parser.add_argument("--text", type=Path, action="append", help="a UTF-8 file; may be repeated")
    parser.add_argument("--window", type=int, default=512, help="tokens of a window")
    parser.add_argument("--max-tokens", type=int, default=200_000)
    args = parser.parse_args()
    texts = [path.read_text(encoding="utf-8") for path in args.text or []] or held_out_texts()
    first = None
    print("| weights | perplexity | against the first |\n|---|---|---|")
    for name, options in FORMATS.items():
        llm = LLM(model=args.model, max_model_len=args.window + 1, **options)
        value = perplexity(llm, windows(llm, texts, args.window, args.max_tokens))
        first = first or value
        print(f"| {name} | {value:.3f} | {100 * (value / first - 1):+.2f} % |", flush=True)
        del llm


def held_out_texts() -> list[str]:
    """The files the built-in model was not trained on."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tools" / "default_model"))
    from corpus import collect  # type: ignore[import-not-found]

    return list(collect().held_out)


def windows(llm: LLM, texts: Iterable[str], length: int, max_tokens: int) -> Iterator[list[int]]:
    """Token ids, `length` at a time, of the texts one after another."""
    tokenizer = llm.get_tokenizer()
    ids = [token for text in texts for token in tokenizer.encode(text)][:max_tokens]
    for start in range(0, len(ids) - 1, length):
        yield ids[start : start + length]


def perplexity(llm: LLM, prompts: Iterable[list[int]]) -> float:
    """Perplexity per token."""
    params = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    total, count = 0.0, 0
    for output in llm.generate(
        [{"prompt_token_ids": prompt} for prompt in prompts], params, use_tqdm=False
    ):
        ids = output.prompt_token_ids or []
        for token, entry in zip(ids[1:], (output.prompt_logprobs or [])[1:], strict=True):
            assert entry is not None
            total -= entry[token].logprob
            count += 1
    return math.exp(total / count)


if __name__ == "__main__":
    main()
