"""What one golden case is, and the fields that cases share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from transformers import PretrainedConfig

PROMPT_LENGTHS = (1, 2, 7, 16, 17, 33, 100, 300)
"""Prompt lengths of every case that does not name its own: around block sizes, and long."""

NUM_GREEDY_TOKENS = 64
"""Length of the greedy continuation of each prompt."""


@dataclass(frozen=True)
class Case:
    """One checkpoint folder.

    `spelling` is the generation of transformers whose `config.json` field names the folder uses:
    "v4" (`rope_theta`, `rope_scaling`, `torch_dtype`; what most files on the hub look like) or "v5"
    (`rope_parameters`, `dtype`). `v4_extra` changes the v4 file only: None removes a field, ...
    writes null. `num_shards` above 1 splits the weights; `original_gpt2_names` stores tensors as
    the first GPT-2 uploads do, `fused_experts` all experts of a layer in one tensor (transformers
    5's own layout; files on the hub have each expert apart), `mxfp4` those of gpt-oss in MXFP4,
    `fp8` projections in FP8.
    Tests load the folder with `max_model_len`, where it is given.
    `attention` is the implementation that transformers computes with.
    """

    name: str
    why: str
    config_class: type[PretrainedConfig]
    overrides: Mapping[str, Any]
    spelling: str = "v5"
    dtype: str = "float32"
    num_shards: int = 1
    prompt_lengths: tuple[int, ...] = PROMPT_LENGTHS
    original_gpt2_names: bool = False
    fused_experts: bool = False
    mxfp4: bool = False
    fp8: bool = False
    v4_extra: Mapping[str, Any] = field(default_factory=dict)
    max_model_len: int | None = None
    attention: str = "eager"

    def config(self) -> PretrainedConfig:
        """The transformers configuration of this case."""
        return self.config_class(**{"dtype": self.dtype, **self.overrides})


def rotary(hidden: int, heads: int, kv_heads: int, mlp: int, **more: Any) -> dict[str, Any]:
    """Fields shared by the Llama-like cases: two layers, 320 tokens, 512 positions."""
    return {
        "vocab_size": 320,
        "hidden_size": hidden,
        "intermediate_size": mlp,
        "num_hidden_layers": 2,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 512,
        "rms_norm_eps": 1e-5,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": None,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        **more,
    }
