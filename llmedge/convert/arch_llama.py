"""Llama and what is shaped like it: Mistral, Mixtral, SmolLM."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, PERMUTE_QK
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions, within_window

_KINDS = frozenset({"default", "linear", "yarn", "llama3"})

ARCHITECTURES = (
    Architecture(
        "llama",
        "Llama",
        ("LlamaForCausalLM",),
        edits=PERMUTE_QK,
        metadata=rope_dimensions,
        extra=llama3_factors,
        rope_kinds=_KINDS,
    ),
    Architecture(
        "llama",
        "Mistral",
        ("MistralForCausalLM",),
        edits=PERMUTE_QK,
        metadata=lambda config: rope_dimensions(config) | within_window(config),
        rope_kinds=_KINDS,
        defaults={"sliding_window": 4096},
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
                lambda config: (
                    config.get("no_rope_layers", every_fourth(config.n_layers))
                    == every_fourth(config.n_layers)
                ),
                "llama.cpp leaves out rope in every fourth layer, whatever the checkpoint says",
            ),
        ),
    ),
)


def every_fourth(n_layers: int) -> list[int]:
    """Return SmolLM3's pattern: 1 where a layer has rope."""
    return [int((layer + 1) % 4 != 0) for layer in range(n_layers)]
