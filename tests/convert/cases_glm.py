"""GLM."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def glm4(name: str, **settings: Any) -> Case:
    shape = {"head_dim": 32, "partial_rotary_factor": 0.5}
    return Case(name, "glm4", "Glm4ForCausalLM", {**shape, **settings})


MOE: dict[str, Any] = {
    "head_dim": 32,
    "moe_intermediate_size": 48,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "routed_scaling_factor": 1.7,
}


def glm4_moe(name: str, **settings: Any) -> Case:
    return Case(name, "glm4_moe", "Glm4MoeForCausalLM", {**MOE, **settings})


CASES = (
    glm4("glm4"),
    glm4("glm4-tied", tie_word_embeddings=True, attention_bias=False),
    glm4_moe("glm4-moe"),
    glm4_moe("glm4-moe-norm", use_qk_norm=True, attention_bias=True, norm_topk_prob=False),
    Case("glm4-moe-stacked", "glm4_moe", "Glm4MoeForCausalLM", MOE, is_original=False),
    Case(
        "glm4-2025",
        "glm4",
        "Glm4ForCausalLM",
        {"head_dim": 32},
        written={"rope_parameters": None, "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
)

GUARDS = (GuardCase("n_group", glm4_moe("glm4-moe", n_group=2)),)
