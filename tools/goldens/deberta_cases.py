"""The pooling cases of DeBERTa, whose distances have keys and queries."""

from __future__ import annotations

from typing import Any

from encoder_cases import SIZES, PoolingCase


def deberta(**more: Any) -> dict[str, Any]:
    """Fields of DeBERTa-v3, but for its sizes: of a distance 4 are exact, and 24 told apart."""
    return {
        **SIZES,
        "intermediate_size": 52,
        "type_vocab_size": 0,
        "pad_token_id": 0,
        "relative_attention": True,
        "max_relative_positions": 24,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_biased_input": False,
        **more,
    }


DEBERTA_CASES: tuple[PoolingCase, ...] = (
    PoolingCase(
        "deberta_v3",
        "distances in logarithmic buckets with keys and queries of the layer's own projections; a "
        "prompt longer than the buckets tell apart",
        "DebertaV2Model",
        deberta(),
    ),
    PoolingCase(
        "deberta_v3_classifier",
        "classes of a prompt through its pooler",
        "DebertaV2ForSequenceClassification",
        deberta(num_labels=3, num_hidden_layers=1),
        prompt_lengths=(2, 17),
    ),
    PoolingCase(
        "deberta_v3_mlm",
        "masked tokens by its own head, the table of tokens as it is; distances with keys only",
        "DebertaV2ForMaskedLM",
        deberta(legacy=False, num_hidden_layers=1, pos_att_type=["c2p"], norm_rel_ebd="none"),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "deberta_v2_mlm",
        "BERT's head for masked tokens, narrow embeddings; distances with queries only",
        "DebertaV2ForMaskedLM",
        deberta(embedding_size=20, num_hidden_layers=1, pos_att_type="p2c"),
        prompt_lengths=(17,),
    ),
    PoolingCase(
        "deberta_v2_ner",
        "every distance up to 11 by itself, projections of distances, learned positions, segments",
        "DebertaV2ForTokenClassification",
        deberta(
            num_labels=5,
            share_att_key=False,
            position_buckets=-1,
            max_relative_positions=12,
            norm_rel_ebd="none",
            position_biased_input=True,
            type_vocab_size=2,
        ),
        segments=True,
        prompt_lengths=(1, 40),
    ),
    PoolingCase(
        "deberta_v2_qa",
        "an odd number of buckets, as many distances as positions",
        "DebertaV2ForQuestionAnswering",
        deberta(share_att_key=False, position_buckets=7, max_relative_positions=-1),
        prompt_lengths=(60,),
    ),
    PoolingCase(
        "deberta_v2_convolution",
        "a convolution over the embeddings beside the first layer, which prompts do not share",
        "DebertaV2Model",
        deberta(conv_kernel_size=3, conv_act="gelu", num_hidden_layers=1),
        prompt_lengths=(1, 2, 17),
    ),
)
