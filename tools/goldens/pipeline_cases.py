"""The table of pipelines: a checkpoint for each task, and calls with their arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from deberta_cases import deberta
from encoder_cases import PoolingCase
from wordpiece_built import MODEL_MAX_LENGTH, vocabulary


@dataclass(frozen=True)
class Call:
    """A call of a pipeline: the input, the options, and those the pipeline is made with."""

    inputs: Any
    options: Mapping[str, Any] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PipelineCase:
    """A folder: a task, the checkpoint if it has one of its own, and calls.

    A case whose tokenizer is named as itself gets the WordPiece tokenizer into its folder.
    `last_version` is the last major version of transformers that has the task.
    """

    name: str
    task: str
    calls: tuple[Call, ...]
    model: PoolingCase | str
    tokenizer: str = "wordpiece"
    last_version: int = 5


def _checkpoint(name: str, model: str, **overrides: Any) -> PoolingCase:
    """A small BERT for the WordPiece tokenizer."""
    sizes = {
        "vocab_size": len(vocabulary()),
        "hidden_size": 20,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": MODEL_MAX_LENGTH,
        "pad_token_id": 0,
    }
    if "id2label" in overrides:
        overrides["label2id"] = {name: place for place, name in overrides["id2label"].items()}
    return PoolingCase(name, "a pipeline's checkpoint", model, {**sizes, **overrides})


TEXT = "Señor Núñez met Professor Kim of Busan University in Gdańsk."
EMOJI = "😀 Marie Laveau waits 🥐 in Ålesund, not in SÃO PAULO!"
LONG = (
    "Marie Laveau opened the old mill by the river in Lyon last spring, and the harbour master of "
    "Gdańsk counted the boxes twice. Professor Kim of Busan University met Ms. O'Neill at the "
    "Berlin conference; our neighbour sells honey, wax and candles at the market in Zürich, nine "
    "miles north of the town, where the ferry to Ålesund leaves at seven."
)
"""Longer than the model reads."""

STRATEGIES = ("none", "simple", "first", "average", "max")

NER_CALLS = (
    *(
        Call([TEXT, EMOJI], {"aggregation_strategy": strategy, "ignore_labels": ignored})
        for strategy in STRATEGIES
        for ignored in ([], ["O", "LOC"])
    ),
    Call(TEXT),
    Call(LONG),
    *(Call(LONG, {"aggregation_strategy": s, "stride": 11}) for s in STRATEGIES[1:]),
    Call(LONG, {}, {"aggregation_strategy": "simple", "stride": 0}),
    Call(["Marie", "Laveau", "met", "Núñez"], {"is_split_into_words": True}),
    Call(
        [["São", "Paulo", "waits"], ["Gdańsk!"]],
        {"is_split_into_words": True, "aggregation_strategy": "max", "delimiter": ", "},
    ),
)

BYTE_LEVEL_NER_CALLS = tuple(
    Call([TEXT, EMOJI], {"aggregation_strategy": strategy, "ignore_labels": []})
    for strategy in STRATEGIES
)

CLASSIFICATION_CALLS = (
    Call(TEXT),
    Call([TEXT, EMOJI]),
    Call([TEXT]),
    Call(TEXT, {"top_k": None}),
    Call([TEXT, EMOJI], {"top_k": 2}),
    Call(TEXT, {"top_k": 1}),
    Call(TEXT, {}, {"top_k": None}),
    Call(TEXT, {"function_to_apply": "sigmoid", "top_k": None}),
    Call(EMOJI, {"function_to_apply": "none", "top_k": None}),
    Call([EMOJI], {}, {"function_to_apply": "sigmoid"}),
    Call({"text": TEXT, "text_pair": "The café closed."}),
    Call([{"text": TEXT, "text_pair": EMOJI}, {"text": EMOJI}], {"top_k": None}),
    Call(LONG, {"truncation": True}),
    Call({"text": LONG, "text_pair": EMOJI}, {"truncation": True, "top_k": 3}),
)

RANKER_CALLS = (
    Call([{"text": "Who opened the mill?", "text_pair": text} for text in (TEXT, EMOJI, "Wax.")]),
)

LABELS = ["travel", "cooking", "sports", "politics"]

ZERO_SHOT_CALLS = (
    Call(TEXT, {"candidate_labels": LABELS}),
    Call([TEXT, EMOJI], {"candidate_labels": "travel, music ,sports"}),
    Call([TEXT, LONG], {"candidate_labels": LABELS, "multi_label": True}),
    Call(TEXT, {"candidate_labels": ["music"]}),
    Call(EMOJI, {"candidate_labels": LABELS, "hypothesis_template": "It is about {}, is it?"}),
    Call([TEXT], {"multi_label": True}, {"candidate_labels": LABELS}),
)

DEBERTA_ZERO_SHOT_CALLS = (
    Call(TEXT, {"candidate_labels": LABELS}),
    Call([EMOJI, LONG], {"candidate_labels": LABELS, "multi_label": True}),
)

QA_CALLS = (
    Call({"question": "Who opened the mill?", "context": TEXT}),
    Call({"question": "Who opened the mill?", "context": EMOJI}, {"top_k": 4}),
    Call({"question": "Who?", "context": LONG}),
    Call({"question": "Who?", "context": LONG}, {"top_k": 5, "doc_stride": 9}),
    Call({"question": "How far?", "context": LONG}, {"max_seq_len": 30, "doc_stride": 4}),
    Call({"question": "Who?", "context": LONG}, {"top_k": 3, "max_answer_len": 2}),
    Call({"question": "Who?", "context": LONG}, {"top_k": 3, "align_to_words": False}),
    Call({"question": "Who?", "context": LONG}, {"top_k": 3, "handle_impossible_answer": True}),
    Call({"question": "Who?", "context": EMOJI}, {"handle_impossible_answer": True}),
    Call([{"question": "Who?", "context": TEXT}]),
    Call([{"question": "Who?", "context": TEXT}, {"question": "How far?", "context": LONG}]),
)

FILL_MASK_CALLS = (
    Call("The ferry to [MASK] leaves at seven."),
    Call(["The [MASK] sells honey.", "Señor Núñez 😀 wrote [MASK]"], {"top_k": 2}),
    Call("The [MASK] of the [MASK] waits.", {"top_k": 3}),
    Call(["The [MASK] waits."]),
    Call("The [MASK] waits.", {"targets": ["river", "neighbour", "baker"]}),
    Call("The [MASK] waits.", {"targets": "river"}),
    Call("The [MASK] [MASK] waits.", {}, {"targets": ["mill", "wax"], "top_k": 1}),
    Call(f"A [MASK]. {LONG}", {"tokenizer_kwargs": {"truncation": True}}),
)

FEATURE_CALLS = (Call(TEXT), Call(["Marie", EMOJI]), Call(LONG, {"truncation": True}))

CHAT = [{"role": "user", "content": "my neighbour carries the water"}]
GREEDY = {"do_sample": False, "max_new_tokens": 8}

GENERATION_CALLS = (
    Call("The river remembers", GREEDY),
    Call(["The river", "every block counts"], {**GREEDY, "return_full_text": False}),
    Call("The river remembers", {**GREEDY, "return_tensors": True}),
    Call(CHAT, GREEDY),
    Call([CHAT, [*CHAT, {"role": "assistant", "content": "It"}]], GREEDY),
    Call(CHAT, {"return_full_text": False}, GREEDY),
)

NER_LABELS = {0: "O", 1: "B-PER", 2: "I-PER", 3: "B-LOC", 4: "I-LOC", 5: "MISC"}
NLI_LABELS = {0: "Contradiction", 1: "Entailment", 2: "Neutral"}

_NLI = _checkpoint("pipeline_nli", "BertForSequenceClassification", id2label=NLI_LABELS)
_MLM = _checkpoint("pipeline_mlm", "BertForMaskedLM")

PIPELINE_CASES = (
    PipelineCase(
        "pipeline_ner",
        "token-classification",
        NER_CALLS,
        _checkpoint("pipeline_ner", "BertForTokenClassification", id2label=NER_LABELS),
        tokenizer="pipeline_ner",
    ),
    PipelineCase(
        "pipeline_ner_byte_level",
        "token-classification",
        BYTE_LEVEL_NER_CALLS,
        _checkpoint(
            "pipeline_ner_byte_level",
            "BertForTokenClassification",
            id2label=NER_LABELS,
            vocab_size=384,
            max_position_embeddings=100,
        ),
        tokenizer="chat_llama",
    ),
    PipelineCase("pipeline_nli", "text-classification", CLASSIFICATION_CALLS, _NLI),
    PipelineCase(
        "pipeline_ranker",
        "text-classification",
        RANKER_CALLS,
        _checkpoint("pipeline_ranker", "BertForSequenceClassification", num_labels=1),
    ),
    PipelineCase("pipeline_zero_shot", "zero-shot-classification", ZERO_SHOT_CALLS, _NLI.name),
    PipelineCase(
        "pipeline_zero_shot_deberta",
        "zero-shot-classification",
        DEBERTA_ZERO_SHOT_CALLS,
        _checkpoint(
            "pipeline_zero_shot_deberta",
            "DebertaV2ForSequenceClassification",
            **{
                **deberta(hidden_size=20, intermediate_size=28, num_attention_heads=2),
                "vocab_size": len(vocabulary()),
                "max_position_embeddings": MODEL_MAX_LENGTH,
            },
            id2label={0: "entailment", 1: "neutral", 2: "contradiction"},
        ),
    ),
    PipelineCase("pipeline_mlm", "fill-mask", FILL_MASK_CALLS, _MLM),
    PipelineCase("pipeline_features", "feature-extraction", FEATURE_CALLS, _MLM.name),
    PipelineCase(
        "pipeline_qa",
        "question-answering",
        QA_CALLS,
        _checkpoint("pipeline_qa", "BertForQuestionAnswering"),
        last_version=4,
    ),
    PipelineCase(
        "pipeline_text", "text-generation", GENERATION_CALLS, "chat_llama", tokenizer="chat_llama"
    ),
)
