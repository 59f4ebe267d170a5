"""ERNIE."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase

MOE: dict[str, Any] = {
    "moe_num_experts": 4,
    "moe_k": 2,
    "moe_num_shared_experts": 2,
    "moe_intermediate_size": 48,
    "moe_layer_start_index": 1,
    "moe_layer_end_index": -1,
}


def ernie(name: str, **settings: Any) -> Case:
    return Case(name, "ernie4_5", "Ernie4_5ForCausalLM", {"head_dim": 32, **settings})


def ernie_moe(name: str, **settings: Any) -> Case:
    return Case(name, "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", {**MOE, **settings})


CASES = (
    ernie("ernie"),
    ernie("ernie-untied", tie_word_embeddings=False),
    ernie_moe("ernie-moe"),
    ernie_moe("ernie-moe-untied", tie_word_embeddings=False, moe_num_shared_experts=1),
    Case("ernie-moe-stacked", "ernie4_5_moe", "Ernie4_5_MoeForCausalLM", MOE, is_original=False),
)

GUARDS = (
    GuardCase("use_bias", ernie("ernie", use_bias=True)),
    GuardCase("use_bias", ernie_moe("ernie-moe", use_bias=True)),
    GuardCase("moe_norm_min", ernie_moe("ernie-moe", moe_norm_min=0.5)),
    GuardCase("moe_layer_interval", ernie_moe("ernie-moe", moe_layer_interval=2)),
    GuardCase("moe_layer_end_index", ernie_moe("ernie-moe", moe_layer_end_index=1)),
)
