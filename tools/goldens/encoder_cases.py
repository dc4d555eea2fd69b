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
    the token type 1. `old_norm_names` stores norms as gamma and beta, `without` takes fields from
    `config.json`. Where `padding_at` says, prompts have the padding token. Of hidden states, only
    the last `stored_rows` are kept. `max_seq_length` is what `sentence_bert_config.json` has.
    """

    name: str
    why: str
    model: str
    overrides: Mapping[str, Any]
    extra: Mapping[str, Any] = field(default_factory=dict)
    modules: tuple[str, ...] = ()
    segments: bool = False
    old_norm_names: bool = False
    without: tuple[str, ...] = ()
    padding_at: int | None = None
    stored_rows: int | None = None
    max_seq_length: int | None = 48
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


SIZES = {
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
"""Of every model here, unless it says otherwise."""


def _bert(**more: Any) -> dict[str, Any]:
    """Fields shared by BERT and its like."""
    return {**SIZES, "intermediate_size": 52, "type_vocab_size": 2, "pad_token_id": 0, **more}


def _modernbert(**more: Any) -> dict[str, Any]:
    """Fields of ModernBERT: three layers, of which the first sees all, the others 6 to a side."""
    return {
        **SIZES,
        "num_hidden_layers": 3,
        "local_attention": 12,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "cls_token_id": 1,
        "sep_token_id": 2,
        **more,
    }


def _llama(**more: Any) -> dict[str, Any]:
    """Fields of Llama and its like."""
    return {**SIZES, "num_key_value_heads": 2, **more}


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
    PoolingCase(
        "roberta",
        "positions counted from the padding token's id (3), which stands in a prompt as well",
        "RobertaModel",
        _bert(pad_token_id=3, type_vocab_size=1),
        prompt_lengths=(1, 17, 40),
        padding_at=5,
    ),
    PoolingCase(
        "xlm_roberta_classifier",
        "classes of a prompt by a head of two layers",
        "XLMRobertaForSequenceClassification",
        _bert(pad_token_id=1, type_vocab_size=1, num_hidden_layers=1, num_labels=6),
        prompt_lengths=(7,),
    ),
    PoolingCase(
        "camembert_mlm",
        "RoBERTa's head for masked tokens",
        "CamembertForMaskedLM",
        _bert(pad_token_id=1, type_vocab_size=1, num_hidden_layers=1),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "distilbert_classifier",
        "no segments, names of its own, a head with relu, several labels at once",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": 101,
            "dim": 32,
            "hidden_dim": 52,
            "n_layers": 2,
            "n_heads": 4,
            "max_position_embeddings": 64,
            "num_labels": 4,
            "problem_type": "multi_label_classification",
        },
        prompt_lengths=(2, 17),
    ),
    PoolingCase(
        "distilbert_mlm",
        "its head for masked tokens",
        "DistilBertForMaskedLM",
        {
            "vocab_size": 101,
            "dim": 32,
            "hidden_dim": 52,
            "n_layers": 1,
            "n_heads": 4,
            "max_position_embeddings": 64,
        },
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "electra",
        "embeddings narrower than the layers, a sentence-transformers folder of two modes",
        "ElectraModel",
        _bert(embedding_size=20),
        modules=("cls+mean",),
        segments=True,
    ),
    PoolingCase(
        "electra_classifier",
        "a head with gelu",
        "ElectraForSequenceClassification",
        _bert(embedding_size=32, num_hidden_layers=1),
        prompt_lengths=(7,),
    ),
    PoolingCase(
        "electra_mlm",
        "the generator's head, as wide as the embeddings",
        "ElectraForMaskedLM",
        _bert(embedding_size=20, num_hidden_layers=1),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "mpnet",
        "a bias by distance; a prompt longer than its buckets reach, weighted means",
        "MPNetModel",
        {k: v for k, v in _bert(max_position_embeddings=162).items() if k != "type_vocab_size"},
        modules=("weightedmean", "normalize"),
        prompt_lengths=(1, 17, 160),
        stored_rows=20,
        max_seq_length=None,
    ),
    PoolingCase(
        "mpnet_qa",
        "the same with a head",
        "MPNetForQuestionAnswering",
        {k: v for k, v in _bert(num_hidden_layers=1).items() if k != "type_vocab_size"},
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "albert",
        "two groups of weights for three layers, narrow embeddings, largest values",
        "AlbertModel",
        _bert(embedding_size=20, num_hidden_layers=3, num_hidden_groups=2),
        modules=("max", "normalize"),
        segments=True,
    ),
    PoolingCase(
        "albert_classifier",
        "a pooled token, one group for both layers",
        "AlbertForSequenceClassification",
        _bert(embedding_size=20),
        prompt_lengths=(7,),
    ),
    PoolingCase(
        "albert_mlm",
        "a group of two layers' weights, masked tokens through narrow embeddings",
        "AlbertForMaskedLM",
        _bert(embedding_size=20, num_hidden_layers=1, inner_group_num=2),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "modernbert",
        "local and global layers, each with a rotary base; no biases; transformers 4's fields",
        "ModernBertModel",
        _modernbert(),
        extra={"global_rope_theta": 160000.0, "local_rope_theta": 10000.0},
        without=("rope_parameters", "layer_types"),
        modules=("sqrt",),
    ),
    PoolingCase(
        "modernbert_classifier",
        "biases everywhere, the mean through a head",
        "ModernBertForSequenceClassification",
        _modernbert(
            classifier_pooling="mean",
            classifier_bias=True,
            norm_bias=True,
            attention_bias=True,
            mlp_bias=True,
            num_labels=3,
        ),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "modernbert_mlm",
        "the vocabulary's projection, tied, with a bias",
        "ModernBertForMaskedLM",
        _modernbert(),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "nomic_bert",
        "rotary positions and a gated feed-forward after BERT's fashion, segments",
        "NomicBertModel",
        _bert(intermediate_size=40),
        modules=("mean",),
        segments=True,
    ),
    PoolingCase(
        "llama_embedding",
        "a decoder without its head, the last token of a sentence-transformers folder",
        "LlamaModel",
        _llama(),
        modules=("last", "normalize"),
    ),
    PoolingCase(
        "qwen3_classifier",
        "classes of a prompt from a decoder's last token",
        "Qwen3ForSequenceClassification",
        _llama(num_labels=3, head_dim=8, pad_token_id=0),
    ),
)
