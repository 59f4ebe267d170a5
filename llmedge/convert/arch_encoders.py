"""Encoders that make embeddings: BERT, RoBERTa and XLM-R, Nomic BERT, ModernBERT, EuroBERT.

And the rerankers among them, which make a score of two texts. BERT's own are not here: they tell
the texts apart by token types, and llama.cpp gives all tokens the first type.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from llmedge.convert.architecture import GELU, SILU, Architecture, Guard
from llmedge.convert.guards import equals, is_off, layer_types, without_bias
from llmedge.convert.hyperparameters import layer_norm
from llmedge.convert.rows import cut

if TYPE_CHECKING:
    from llmedge.convert.config import Config, Rope
    from llmedge.convert.rows import Rows
    from llmedge.gguf.writer import Value

_PREFIXES = ("bert.", "roberta.", "model.")
# What comes after the last hidden states, which are what is wanted.
_HEADS = ("pooler.*", "*.pooler.*", "cls.*", "lm_head.*", "head.*", "decoder.*", "*position_ids")

_BERT_NAMES = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.LayerNorm": "token_embd_norm",
    # transformers before 1.0 said gamma and beta; bert-base-uncased still does
    "embeddings.LayerNorm.gamma": "token_embd_norm.weight",
    "embeddings.LayerNorm.beta": "token_embd_norm.bias",
}
_BERT_BLOCK = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "attention.output.LayerNorm.gamma": "attn_output_norm.weight",
    "attention.output.LayerNorm.beta": "attn_output_norm.bias",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
    "output.LayerNorm.gamma": "layer_output_norm.weight",
    "output.LayerNorm.beta": "layer_output_norm.bias",
}
_DISTIL_BLOCK = {
    "attention.q_lin": "attn_q",
    "attention.k_lin": "attn_k",
    "attention.v_lin": "attn_v",
    "attention.out_lin": "attn_output",
    "sa_layer_norm": "attn_output_norm",
    "ffn.lin1": "ffn_up",
    "ffn.lin2": "ffn_down",
    "output_layer_norm": "layer_output_norm",
}
_NOMIC_BLOCK = {
    "attn.Wqkv": "attn_qkv",
    "attn.out_proj": "attn_output",
    "norm1": "attn_output_norm",
    "mlp.fc11": "ffn_up",
    "mlp.fc12": "ffn_gate",
    "mlp.fc2": "ffn_down",
    "norm2": "layer_output_norm",
}
_RANK = 4
_POOLING = {"mean": 1, "cls": 2}
_BIDIRECTIONAL = is_off("is_decoder", "llama.cpp lets each token see those after it")
# Settings of Nomic's own code.
_NOMIC_GUARDS = (
    *(
        is_off(field, "llama.cpp computes as nomic-embed-text does")
        for field in (
            *("prenorm", "causal", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"),
            *("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"),
        )
    ),
    equals("rotary_emb_fraction", 1.0, "llama.cpp rotates whole heads"),
)


def _bert(config: Config) -> dict[str, Value | None]:
    return layer_norm(config) | {
        "attention.causal": False,
        "tokenizer.ggml.token_type_count": config.integer("type_vocab_size"),
    }


def _distil_bert(config: Config) -> dict[str, Value | None]:
    return _bert(config) | {"feed_forward_length": config.integer("hidden_dim")}


def _first_position(config: Config) -> int:
    return config.integer("pad_token_id") + 1


def _roberta(config: Config) -> dict[str, Value | None]:
    n_positions = config.integer("max_position_embeddings") - _first_position(config)
    return _bert(config) | {"context_length": n_positions}


def _from_first_position(rows: Rows, config: Config) -> Rows:
    return cut(rows, _first_position(config), rows.n_rows)


def _nomic(config: Config) -> dict[str, Value | None]:
    # Beyond the trained positions the original stretches its rope, which llama.cpp does not.
    n_positions = config.integer("max_position_embeddings")
    trained = config.integer("max_trained_positions", n_positions)
    return _bert(config) | {"context_length": min(n_positions, trained)}


def _modern_bert(config: Config) -> dict[str, Value | None]:
    every = config.integer("global_attn_every_n_layers")
    repeated = ("full_attention", *["sliding_attention"] * (every - 1))
    pattern = [kind == "sliding_attention" for kind in layer_types(config, repeated)]
    windows: dict[str, Value | None] = {
        "attention.sliding_window": config.integer("local_attention"),
        "attention.sliding_window_pattern": pattern,
        "rope.freq_base_swa": _theta(config, config.local_rope, "local_rope_theta"),
    }
    # llama.cpp ends the process where a window is in no layer
    return {**layer_norm(config), **(windows if any(pattern) else {})} | {
        "attention.causal": False,
        # its configurations state two epsilons; this is the one in use
        "attention.layer_norm_epsilon": config.number("norm_eps"),
        "rope.freq_base": _theta(config, config.rope, "global_rope_theta"),
        "hidden_activation": "silu" if config.get("hidden_act") in SILU else "gelu",
    }


def _labels(config: Config) -> list[str]:
    given = config.get("id2label")
    if not isinstance(given, dict):
        return ["LABEL_0", "LABEL_1"]
    labels = cast("dict[str, object]", given)
    return [str(labels[number]) for number in sorted(labels, key=int)]


def _reranker(config: Config) -> dict[str, Value | None]:
    return {"pooling_type": _RANK, "classifier.output_labels": _labels(config)}


def _roberta_reranker(config: Config) -> dict[str, Value | None]:
    return _roberta(config) | _reranker(config)


def _modern_bert_reranker(config: Config) -> dict[str, Value | None]:
    pooling = {"classifier.pooling_type": _POOLING[config.text("classifier_pooling")]}
    return _modern_bert(config) | _reranker(config) | pooling


def _theta(config: Config, rope: Rope, older_name: str) -> float:
    return rope.number("rope_theta", config.number(older_name))


_ROBERTA = Architecture(
    "bert",
    "RoBERTa, XLM-R",
    (
        *("RobertaModel", "RobertaForMaskedLM", "CamembertModel"),
        *("XLMRobertaModel", "XLMRobertaForMaskedLM"),
    ),
    prefixes=_PREFIXES,
    layers="encoder.layer",
    names=_BERT_NAMES,
    block=_BERT_BLOCK,
    edits={"position_embd": _from_first_position},
    metadata=_roberta,
    guards=(_BIDIRECTIONAL,),
    activations=GELU,
    defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12, "pad_token_id": 1},
    ignored=_HEADS,
    is_encoder=True,
)
_MODERN_BERT = Architecture(
    "modern-bert",
    "ModernBERT",
    ("ModernBertModel", "ModernBertForMaskedLM"),
    names={
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
    },
    block={
        "attn_norm": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.Wo": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.Wi": "ffn_up",
        "mlp.Wo": "ffn_down",
    },
    metadata=_modern_bert,
    guards=(
        without_bias("attention_bias"),
        without_bias("mlp_bias"),
        without_bias("norm_bias"),
    ),
    activations=GELU | SILU,
    rope_kinds=frozenset({"default"}),
    defaults={
        "norm_eps": 1e-5,
        "local_attention": 128,
        "global_attn_every_n_layers": 3,
        "global_rope_theta": 160000.0,
        "local_rope_theta": 10000.0,
    },
    ignored=_HEADS,
    is_encoder=True,
)

ARCHITECTURES = (
    Architecture(
        "bert",
        "BERT",
        ("BertModel", "BertForMaskedLM"),
        prefixes=_PREFIXES,
        layers="encoder.layer",
        names=_BERT_NAMES,
        block=_BERT_BLOCK,
        metadata=_bert,
        guards=(_BIDIRECTIONAL,),
        activations=GELU,
        defaults={"type_vocab_size": 2, "layer_norm_eps": 1e-12},
        ignored=_HEADS,
        is_encoder=True,
    ),
    Architecture(
        "bert",
        "DistilBERT",
        ("DistilBertModel", "DistilBertForMaskedLM"),
        prefixes=("distilbert.",),
        layers="transformer.layer",
        names=_BERT_NAMES,
        block=_DISTIL_BLOCK,
        metadata=_distil_bert,
        guards=(
            Guard(
                "activation",
                lambda config: config.get("activation", "gelu") in GELU,
                "llama.cpp computes GELU",
            ),
        ),
        defaults={"layer_norm_eps": 1e-12, "type_vocab_size": 1},
        ignored=("vocab_*", *_HEADS),
        is_encoder=True,
    ),
    _ROBERTA,
    replace(
        _ROBERTA,
        classes=("RobertaForSequenceClassification", "XLMRobertaForSequenceClassification"),
        names={**_BERT_NAMES, "classifier.dense": "cls", "classifier.out_proj": "cls.output"},
        metadata=_roberta_reranker,
    ),
    Architecture(
        "nomic-bert",
        "Nomic Embed",
        ("NomicBertModel",),
        layers="encoder.layers",
        names=_BERT_NAMES | {"emb_ln": "token_embd_norm"},
        block=_NOMIC_BLOCK,
        metadata=_nomic,
        guards=_NOMIC_GUARDS,
        activations=SILU | {"swiglu"},
        defaults={
            "type_vocab_size": 2,
            "layer_norm_eps": 1e-12,
            "rotary_emb_base": 1000.0,
            "rotary_emb_fraction": 1.0,
            "max_position_embeddings": 2048,
        },
        ignored=_HEADS,
        is_encoder=True,
    ),
    _MODERN_BERT,
    replace(
        _MODERN_BERT,
        classes=("ModernBertForSequenceClassification",),
        names={
            **_MODERN_BERT.names,
            "head.dense": "cls",
            "head.norm": "cls.norm",
            "classifier": "cls.output",
        },
        metadata=_modern_bert_reranker,
        guards=(
            *_MODERN_BERT.guards,
            without_bias("classifier_bias"),
            Guard(
                "classifier_activation",
                lambda config: config.get("classifier_activation", "gelu") in GELU,
                "llama.cpp computes GELU",
            ),
        ),
        defaults={**_MODERN_BERT.defaults, "classifier_pooling": "cls"},
        ignored=(),
    ),
    Architecture(
        "eurobert",
        "EuroBERT",
        ("EuroBertModel", "EuroBertForMaskedLM"),
        metadata=lambda _: {"attention.causal": False},
        guards=(
            without_bias("attention_bias"),
            without_bias("mlp_bias"),
        ),
        rope_kinds=frozenset({"default"}),
        defaults={"rms_norm_eps": 1e-5},
        ignored=_HEADS,
        is_encoder=True,
    ),
)
