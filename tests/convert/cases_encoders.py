"""Encoders: their last hidden states."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.convert.parity import Case, GuardCase

if TYPE_CHECKING:
    from tests.convert.parity import Tensors

GELU = 1e-3
BERT = {"num_key_value_heads": None}
DISTIL = BERT | {"hidden_dim": 96, "intermediate_size": None}
ROBERTA = BERT | {"pad_token_id": 1}
# nomic-embed-text's own spelling of its settings
NOMIC = {
    "n_embd": 64,
    "n_head": 4,
    "n_layer": 3,
    "n_inner": 96,
    "n_positions": 8192,
    "max_trained_positions": 256,
    "rotary_emb_base": 1000,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "activation_function": "swiglu",
    "layer_norm_epsilon": 1e-12,
    "hidden_size": None,
    "num_attention_heads": None,
    "num_hidden_layers": None,
    "intermediate_size": None,
    "max_position_embeddings": None,
    "hidden_act": None,
    "layer_norm_eps": None,
    "rope_parameters": None,
    "head_dim": None,
}
MODERN = BERT | {"num_hidden_layers": 5, "local_attention": 8}
MODERN_OLDER = {
    "layer_types": None,
    "rope_parameters": None,
    "layer_norm_eps": 0.1,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
}

ONE_LABEL = ROBERTA | {"num_labels": 1, "type_vocab_size": 1, "hidden_act": "gelu_new"}
XLM_RERANKER = ("xlm-roberta", "XLMRobertaForSequenceClassification")
MODERN_RERANKER = ("modernbert", "ModernBertForSequenceClassification")


def with_positions(tensors: Tensors) -> Tensors:
    """Add the buffer that old versions of transformers saved."""
    return {**tensors, "bert.embeddings.position_ids": torch.arange(4)}


CASES = (
    Case("bert", "bert", "BertModel", BERT, GELU),
    Case("bert-tanh", "bert", "BertModel", BERT | {"hidden_act": "gelu_new"}, GELU),
    Case("bert-masked-lm", "bert", "BertForMaskedLM", BERT, GELU, layout=with_positions),
    Case(
        "bert-gamma-beta",
        "bert",
        "BertForMaskedLM",
        BERT,
        GELU,
        renamed={"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"},
    ),
    Case("distilbert", "distilbert", "DistilBertModel", DISTIL, GELU),
    Case("distilbert-masked-lm", "distilbert", "DistilBertForMaskedLM", DISTIL, GELU),
    Case("roberta", "roberta", "RobertaModel", ROBERTA, GELU),
    Case("roberta-masked-lm", "roberta", "RobertaForMaskedLM", ROBERTA, GELU),
    Case("camembert", "camembert", "CamembertModel", ROBERTA, GELU),
    Case("xlm-r", "xlm-roberta", "XLMRobertaModel", ROBERTA | {"type_vocab_size": 1}, GELU),
    Case("xlm-r-masked-lm", "xlm-roberta", "XLMRobertaForMaskedLM", ROBERTA, GELU),
    Case("nomic-bert", "nomic_bert", "NomicBertModel", BERT),
    Case("nomic-bert-older", "nomic_bert", "NomicBertModel", BERT, written=NOMIC),
    Case("modern-bert", "modernbert", "ModernBertModel", MODERN, GELU),
    Case("modern-bert-older", "modernbert", "ModernBertModel", MODERN, GELU, MODERN_OLDER),
    Case("modern-bert-masked-lm", "modernbert", "ModernBertForMaskedLM", MODERN, GELU),
    Case(
        "modern-bert-silu", "modernbert", "ModernBertModel", MODERN | {"hidden_activation": "silu"}
    ),
    Case(
        "modern-bert-pattern",
        "modernbert",
        "ModernBertModel",
        MODERN | {"layer_types": ["sliding_attention", "full_attention"] * 2 + ["full_attention"]},
        GELU,
    ),
    Case(
        "modern-bert-no-window",
        "modernbert",
        "ModernBertModel",
        MODERN | {"layer_types": 5 * ["full_attention"]},
        GELU,
    ),
    Case("roberta-reranker", "roberta", "RobertaForSequenceClassification", ONE_LABEL),
    Case("xlm-r-reranker", *XLM_RERANKER, ONE_LABEL),
    Case("xlm-r-labels", *XLM_RERANKER, ROBERTA | {"num_labels": 12}, GELU),
    Case("xlm-r-silent-labels", *XLM_RERANKER, ROBERTA | {"num_labels": 2}, GELU),
    Case("modern-bert-reranker", *MODERN_RERANKER, MODERN | {"num_labels": 1}, GELU),
    Case(
        "modern-bert-reranker-mean",
        *MODERN_RERANKER,
        MODERN | {"num_labels": 3, "classifier_pooling": "mean"},
        GELU,
    ),
    Case("eurobert", "eurobert", "EuroBertModel"),
    Case("eurobert-masked-lm", "eurobert", "EuroBertForMaskedLM", {"rope_theta": 250000.0}),
)

GUARDS = (
    GuardCase(
        "activation",
        Case("distilbert-relu", "distilbert", "DistilBertModel", DISTIL | {"activation": "relu"}),
    ),
    *(
        GuardCase(
            "is_decoder", Case("causal", model_type, class_name, settings | {"is_decoder": True})
        )
        for model_type, class_name, settings in (
            ("bert", "BertModel", BERT),
            ("roberta", "RobertaModel", ROBERTA),
            ("roberta", "RobertaForSequenceClassification", ROBERTA | {"num_labels": 12}),
        )
    ),
    *(
        GuardCase(
            name,
            Case(
                f"nomic-{name}", "nomic_bert", "NomicBertModel", BERT, written=NOMIC | {name: value}
            ),
            is_foreign=True,
        )
        for name, value in {
            "prenorm": True,
            "causal": True,
            "parallel_block": True,
            "use_rms_norm": True,
            "rotary_emb_interleaved": True,
            "qkv_proj_bias": True,
            "mlp_fc1_bias": True,
            "mlp_fc2_bias": True,
            "rotary_emb_fraction": 0.5,
        }.items()
    ),
    *(
        GuardCase(name, Case(name, "modernbert", class_name, MODERN | {name: True}))
        for name in ("attention_bias", "mlp_bias", "norm_bias")
        for class_name in ("ModernBertModel", "ModernBertForSequenceClassification")
    ),
    GuardCase(
        "classifier_bias",
        Case("head-bias", *MODERN_RERANKER, MODERN | {"num_labels": 1, "classifier_bias": True}),
    ),
    GuardCase(
        "classifier_activation",
        Case(
            "head-relu",
            *MODERN_RERANKER,
            MODERN | {"num_labels": 3, "classifier_activation": "relu"},
        ),
    ),
    *(
        GuardCase(name, Case(name, "eurobert", "EuroBertModel", {name: True}))
        for name in ("attention_bias", "mlp_bias")
    ),
)
