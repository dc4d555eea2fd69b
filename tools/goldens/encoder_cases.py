"""The table of pooling cases, one row per folder: encoders, and decoders that are pooled.

As in `cases.py`, sizes are small and uneven, and a row says what its folder is there to catch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers
from transformers import PretrainedConfig, PreTrainedModel

PROMPT_LENGTHS = (1, 2, 17, 40)
"""Prompt lengths of every case that does not name its own."""


@dataclass(frozen=True)
class PoolingCase:
    """One checkpoint folder.

    `model` is the class of transformers, `overrides` the fields of its configuration, `extra` what
    only `config.json` gets. `modules` is the `modules.json` of sentence-transformers by its steps:
    ("mean",) or ("cls", "dense", "normalize"). `segments` gives the second half of each prompt
    the token type 1. `old_norm_names` stores norms as gamma and beta.
    """

    name: str
    why: str
    model: str
    overrides: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    segments: bool = False
    old_norm_names: bool = False
    dtype: str = "float32"
    prompt_lengths: tuple[int, ...] = PROMPT_LENGTHS

    def model_class(self) -> type[PreTrainedModel]:
        """The class of transformers."""
        found: type[PreTrainedModel] = getattr(transformers, self.model)
        return found

    def config(self) -> PretrainedConfig:
        """The transformers configuration of this case."""
        return self.model_class().config_class(**{"dtype": self.dtype, **self.overrides})


MASK = 4
"""The token that stands for a masked one."""


def _bert(**more: Any) -> dict[str, Any]:
    """Fields shared by BERT and its like: two layers, 101 tokens, 64 positions."""
    return {
        "vocab_size": 101,
        "hidden_size": 32,
        "intermediate_size": 52,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "pad_token_id": 0,
        **more,
    }


POOLING_CASES: tuple[PoolingCase, ...] = (
    PoolingCase(
        "bert",
        "the plain case: segments, and no word on pooling, so that the first token is taken",
        "BertModel",
        _bert(),
        segments=True,
    ),
    PoolingCase(
        "bert_sentence",
        "a sentence-transformers folder: mean, a dense layer with tanh, length 1; Matryoshka "
        "sizes; an epsilon (0.01) that shows",
        "BertModel",
        _bert(hidden_size=30, num_attention_heads=5, layer_norm_eps=1e-2),
        extra={"matryoshka_dimensions": [8, 20]},
        modules=("mean", "dense", "normalize"),
    ),
    PoolingCase(
        "bert_classifier",
        "classes of a prompt, norms named gamma and beta as in the oldest files, three labels",
        "BertForSequenceClassification",
        _bert(num_labels=3),
        segments=True,
        old_norm_names=True,
    ),
    PoolingCase(
        "bert_regression",
        "one label and a regression, whose score stays as it is",
        "BertForSequenceClassification",
        _bert(num_labels=1, problem_type="regression"),
        prompt_lengths=(7,),
    ),
    PoolingCase(
        "bert_ner",
        "classes of each token, bfloat16 weights",
        "BertForTokenClassification",
        _bert(num_labels=5),
        dtype="bfloat16",
    ),
    PoolingCase(
        "bert_qa",
        "the scores of an answer's start and end",
        "BertForQuestionAnswering",
        _bert(hidden_act="gelu_new"),
        segments=True,
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "bert_mlm",
        "scores of the vocabulary at mask tokens, the output projection tied to the embedding",
        "BertForMaskedLM",
        _bert(hidden_act="relu"),
        prompt_lengths=(2, 17),
    ),
)
