"""Checkpoints of models that are pooled, and what transformers makes of prompts.

python tools/goldens/encoder_goldens.py            # rewrites their folders in tests/goldens/
python tools/goldens/encoder_goldens.py --check    # makes them elsewhere and compares the bytes
python tools/goldens/encoder_goldens.py --only bert  # one of them
"""

# ruff: noqa: E402  (the environment has to be set before the libraries are imported)

from __future__ import annotations

import argparse
import filecmp
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
for _library in ("OMP", "OPENBLAS", "MKL"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np
import torch
from deberta_cases import DEBERTA_CASES
from encoder_cases import MASK, POOLING_CASES, PoolingCase
from reference_file import write_json
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel
from weights import rng_for

GOLDENS = Path(__file__).resolve().parents[2] / "tests" / "goldens"
REFERENCE = "pooling_reference.json"

MAX_ERROR = 2e-6
"""Largest distance of a float32 value from the float64 one, relative to the vector's length."""

MIN_EFFECT = 1e-3
"""A lost tensor must move some stored value by this, relative to the vector's length."""


def make(case: PoolingCase, folder: Path) -> None:
    """One checkpoint with its references."""
    save_model(case, folder)
    model = load(case, folder, torch.float32)
    prompts = [make_prompt(case, length) for length in case.prompt_lengths]
    outputs = [compute(case, folder, model, prompt) for prompt in prompts]
    error = check_precision(case, folder, prompts, outputs)
    effect = check_effects(case, folder, model, prompts[-1], outputs[-1])
    entries = [{**prompt, **output} for prompt, output in zip(prompts, outputs, strict=True)]
    reference = {
        "case": case.name,
        "why": case.why,
        "checkpoint_dtype": case.dtype,
        "mask_token_id": MASK,
        "float64_error": np.float32(f"{error:.1e}"),
        "prompts": [
            {k: v.astype(np.float32) if isinstance(v, np.ndarray) else v for k, v in entry.items()}
            for entry in entries
        ],
    }
    write_json(folder / REFERENCE, flat(reference))
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(
        f"{case.name:24} {size / 1024:4.0f} KiB  error {error:.1e}  smallest effect {effect:.3f}",
        flush=True,
    )


def flat(reference: dict[str, Any]) -> dict[str, Any]:
    """Matrices as lists of rows."""
    for prompt in reference["prompts"]:
        for key, value in prompt.items():
            if isinstance(value, np.ndarray) and value.ndim == 2:
                prompt[key] = [list(row) for row in value]
    return reference


ATTENDING = {
    *("query", "key", "q_lin", "k_lin", "q", "k", "q_proj", "k_proj", "wqkv"),
    *("query_proj", "key_proj", "pos_query_proj", "pos_key_proj"),
}
"""Matrices of queries and keys."""


def draw(case: PoolingCase, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of one parameter; no bias is zero and no norm is one, so that a lost one shows."""
    noise = rng_for("pooling weights", case.name, name).standard_normal(shape, dtype=np.float32)
    parts = name.lower().split(".")
    module, kind = parts[-2] if len(parts) > 1 else "", parts[-1]
    if kind in ("bias", "beta") or len(shape) == 1:
        if kind == "weight" and len(shape) == 1:
            return 1 + np.float32(0.25) * noise
        return noise * np.float32(0.3)
    if "embeddings" in module or module in ("embed_tokens", "relative_attention_bias"):
        return noise
    # Queries and keys are large, so that attention is selective.
    gain = 1.6 if module in ATTENDING else 1.3
    return noise * np.float32(gain / np.sqrt(shape[-1]))


def save_model(case: PoolingCase, folder: Path) -> None:
    """Write `config.json`, the weights, and what sentence-transformers adds."""
    model = case.model_class()(case.config()).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(draw(case, name, tuple(parameter.shape))))
    model.to(getattr(torch, case.dtype)).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | dict(case.extra)
    for field in case.without:
        del config[field]
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    if case.old_norm_names:
        path = folder / "model.safetensors"
        renamed = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): value
            for name, value in load_file(path).items()
        }
        save_file(renamed, path, metadata={"format": "pt"})
    if case.modules:
        save_modules(case, folder, model.config.hidden_size)


POOLING_FLAGS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "sqrt": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "last": "pooling_mode_lasttoken",
}


def save_modules(case: PoolingCase, folder: Path, width: int) -> None:
    """Write `modules.json` and the folders it names, as sentence-transformers does."""
    pooling, *rest = case.modules
    steps = ["Transformer", "Pooling", *(step.capitalize() for step in rest)]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{step}" if i else "",
            "type": f"sentence_transformers.models.{step}",
        }
        for i, step in enumerate(steps)
    ]
    (folder / "modules.json").write_text(json.dumps(modules, indent=2) + "\n")
    flags = {flag: mode in pooling.split("+") for mode, flag in POOLING_FLAGS.items()}
    write_config(folder / "1_Pooling", {"word_embedding_dimension": width, **flags})
    limits = {"max_seq_length": case.max_seq_length, "do_lower_case": False}
    write_config(folder, limits, "sentence_bert_config.json")
    if "dense" in rest:
        inputs, outputs = width * sum(flags.values()), 24
        dense = folder / f"{2 + rest.index('dense')}_Dense"
        write_config(
            dense,
            {
                "in_features": inputs,
                "out_features": outputs,
                "bias": True,
                "activation_function": "torch.nn.modules.activation.Tanh",
            },
        )
        weight = draw(case, "dense.linear.weight", (outputs, inputs))
        bias = draw(case, "dense.linear.bias", (outputs,))
        tensors = {"linear.weight": torch.from_numpy(weight), "linear.bias": torch.from_numpy(bias)}
        save_file(tensors, dense / "model.safetensors", metadata={"format": "pt"})


def write_config(folder: Path, fields: dict[str, Any], name: str = "config.json") -> None:
    """A JSON file, its folder made if need be."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps(fields, indent=2) + "\n")


def load(case: PoolingCase, folder: Path, dtype: torch.dtype) -> PreTrainedModel:
    """The model as a user would load it, plain ("eager") attention."""
    model: PreTrainedModel = case.model_class().from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()


def make_prompt(case: PoolingCase, length: int) -> dict[str, Any]:
    """A seeded prompt; every fifth token of one for a masked language model is the mask."""
    rng = rng_for("pooling prompt", case.name, length)
    ids = [int(i) for i in rng.integers(5, case.config().vocab_size, length)]
    if case.model.endswith("MaskedLM"):
        ids[1::5] = [MASK] * len(ids[1::5])
    if case.padding_at is not None and length > case.padding_at:
        ids[case.padding_at] = case.config().pad_token_id
    types = [int(2 * i >= length) for i in range(length)] if case.segments else None
    return {"prompt_token_ids": ids, "token_type_ids": types}


def compute(
    case: PoolingCase, folder: Path, model: PreTrainedModel, prompt: dict[str, Any]
) -> dict[str, np.ndarray]:
    """What the model makes of a prompt, by task."""
    ids = torch.tensor([prompt["prompt_token_ids"]])
    inputs = {} if prompt["token_type_ids"] is None else {
        "token_type_ids": torch.tensor([prompt["token_type_ids"]])
    }  # fmt: skip
    with torch.no_grad():
        out = model(ids, **inputs)
    if case.model.endswith("ForSequenceClassification"):
        return {"scores": array(out.logits[0])}
    if case.model.endswith("ForTokenClassification"):
        return {"scores": array(out.logits[0])}
    if case.model.endswith("ForQuestionAnswering"):
        return {"scores": array(torch.stack((out.start_logits[0], out.end_logits[0]), -1))}
    if case.model.endswith("ForMaskedLM"):
        return {"scores": array(out.logits[0][ids[0] == MASK])}
    hidden = out.last_hidden_state[0]
    kept = hidden[-(case.stored_rows or len(hidden)) :]
    return {"hidden": array(kept), "embedding": array(embed(case, folder, hidden))}


def array(value: Tensor) -> np.ndarray:
    """As NumPy's."""
    result: np.ndarray = value.numpy()
    return result


def embed(case: PoolingCase, folder: Path, hidden: Tensor) -> Tensor:
    """What the modules make of hidden states; without modules the first token's, of length 1."""
    modules = case.modules or (default_pooling(case), "normalize")
    rank = torch.arange(1, len(hidden) + 1, dtype=hidden.dtype)[:, None]
    reductions = {
        "cls": lambda: hidden[0],
        "max": lambda: hidden.max(0).values,
        "mean": lambda: hidden.mean(0),
        "sqrt": lambda: hidden.sum(0) / len(hidden) ** 0.5,
        "weightedmean": lambda: (hidden * rank).sum(0) / rank.sum(),
        "last": lambda: hidden[-1],
    }
    wanted = modules[0].split("+")
    x = torch.cat([reduce() for name, reduce in reductions.items() if name in wanted])
    if "dense" in modules:
        tensors = load_file(folder / "2_Dense" / "model.safetensors")
        weight, bias = (tensors[f"linear.{kind}"].to(x.dtype) for kind in ("weight", "bias"))
        x = torch.tanh(weight @ x + bias)
    return x / x.norm() if "normalize" in modules else x


def default_pooling(case: PoolingCase) -> str:
    """Encoders take the first token, decoders the last."""
    return "last" if hasattr(case.config(), "rms_norm_eps") else "cls"


def distance(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> float:
    """Largest difference, relative to the length of the vector it is in."""
    worst = 0.0
    for name, values in one.items():
        scale = np.linalg.norm(np.atleast_2d(values), axis=-1, keepdims=True)
        worst = max(worst, float((np.abs(other[name] - values) / scale).max(initial=0.0)))
    return worst


def check_precision(
    case: PoolingCase,
    folder: Path,
    prompts: list[dict[str, Any]],
    outputs: list[dict[str, np.ndarray]],
) -> float:
    """How far the stored values are from those of the same model in float64."""
    model = load(case, folder, torch.float64)
    error = max(
        distance(compute(case, folder, model, prompt), output)
        for prompt, output in zip(prompts, outputs, strict=True)
    )
    if error > MAX_ERROR:
        raise RuntimeError(f"{case.name}: a value is {error:.1e} from the float64 one")
    return error


def check_effects(
    case: PoolingCase,
    folder: Path,
    model: PreTrainedModel,
    prompt: dict[str, Any],
    output: dict[str, np.ndarray],
) -> float:
    """The least effect of losing a parameter that the outputs depend on at all."""
    effects = {}
    for name, parameter in model.named_parameters():
        before = parameter.data.clone()
        parameter.data = torch.full_like(before, float(name.lower().endswith("norm.weight")))
        effects[name] = distance(output, compute(case, folder, model, prompt))
        parameter.data = before
    # The pooler of a bare BERT is not asked; a bias of keys moves all scores of a query alike.
    unread = ("pooler.", "key.bias", "k_lin.bias", "k.bias", "key_proj.bias")
    read = {
        k: v for k, v in effects.items() if not (case.model.endswith("Model") and "pooler." in k)
    }
    read = {k: v for k, v in read.items() if not k.endswith(unread[1:])}
    for name, effect in read.items():
        if effect < MIN_EFFECT:
            raise RuntimeError(f"{case.name}: losing {name} moves the references by {effect:.1e}")
    return min(read.values())


def main() -> None:
    """Write the folders, or compare them with new ones."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with what is stored")
    parser.add_argument("--only", nargs="*", help="names of the cases to make")
    args = parser.parse_args()
    cases = [
        case for case in (*POOLING_CASES, *DEBERTA_CASES) if not args.only or case.name in args.only
    ]
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary) if args.check else GOLDENS
        for case in cases:
            (root / case.name).mkdir(exist_ok=True)
            make(case, root / case.name)
            if args.check:
                compare(root / case.name, GOLDENS / case.name)


def compare(made: Path, stored: Path) -> None:
    """Demand equal files."""
    names = {path.relative_to(made) for path in made.rglob("*") if path.is_file()}
    names |= {path.relative_to(stored) for path in stored.rglob("*") if path.is_file()}
    _, different, missing = filecmp.cmpfiles(made, stored, map(str, names), shallow=False)
    if different or missing:
        raise SystemExit(f"{stored.name}: other bytes in {different}, missing {missing}")


if __name__ == "__main__":
    main()
