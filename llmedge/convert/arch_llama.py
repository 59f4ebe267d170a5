"""Llama and what is shaped like it: Mistral, Mixtral, SmolLM."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, PERMUTE_QK
from llmedge.convert.guards import is_off
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions, within_window

if TYPE_CHECKING:
    from llmedge.convert.config import Config

_KINDS = frozenset({"default", "linear", "yarn", "llama3"})
MISTRAL = {"num_key_value_heads": 8, "rms_norm_eps": 1e-6, "sliding_window": 4096}

ARCHITECTURES = (
    Architecture(
        "llama",
        "Llama",
        ("LlamaForCausalLM",),
        edits=PERMUTE_QK,
        metadata=rope_dimensions,
        extra=llama3_factors,
        rope_kinds=_KINDS,
        defaults={"rms_norm_eps": 1e-6},
    ),
    Architecture(
        "llama",
        "Mistral",
        ("MistralForCausalLM",),
        edits=PERMUTE_QK,
        metadata=lambda config: rope_dimensions(config) | within_window(config),
        rope_kinds=_KINDS,
        defaults=MISTRAL,
    ),
    Architecture(
        "llama",
        "Mixtral",
        ("MixtralForCausalLM",),
        block=EXPERTS
        | {
            "block_sparse_moe.gate": "ffn_gate_inp",
            "block_sparse_moe.experts.*.w1": "ffn_gate_exps",
            "block_sparse_moe.experts.*.w3": "ffn_up_exps",
            "block_sparse_moe.experts.*.w2": "ffn_down_exps",
        },
        edits={**PERMUTE_QK, **EXPERT_EDITS},
        metadata=lambda config: rope_dimensions(config) | within_window(config),
        rope_kinds=_KINDS,
        defaults={
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
        },
    ),
    Architecture(
        "smollm3",
        "SmolLM3",
        ("SmolLM3ForCausalLM",),
        edits=PERMUTE_QK,
        metadata=rope_dimensions,
        guards=(
            Guard(
                "no_rope_layers",
                lambda config: config.get("no_rope_layers", _ropes(config)) == _every(4, config),
                "llama.cpp leaves out rope in every fourth layer, whatever the checkpoint says",
            ),
            is_off("use_sliding_window", "llama.cpp lets all layers see all positions"),
        ),
        defaults={
            "num_key_value_heads": 4,
            "rms_norm_eps": 1e-6,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
        },
    ),
)


def _ropes(config: Config) -> list[int]:
    return _every(config.integer("no_rope_layer_interval", 4), config)


def _every(period: int, config: Config) -> list[int]:
    """Return SmolLM3's pattern: 0 where a layer has no rope."""
    return [int((layer + 1) % period != 0) for layer in range(config.n_layers)]
