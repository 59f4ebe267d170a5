"""GLM 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits import EXPERT_EDITS, EXPERTS, GATING, SHARED_EXPERTS
from llmedge.convert.guards import equals
from llmedge.convert.hyperparameters import rope_dimensions

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value


def _experts(config: Config) -> dict[str, Value | None]:
    return rope_dimensions(config) | {
        "expert_gating_func": GATING["sigmoid"],
        "expert_shared_count": config.integer("n_shared_experts"),
        "expert_weights_norm": config.flag("norm_topk_prob"),
        "expert_weights_scale": config.number("routed_scaling_factor"),
        "leading_dense_block_count": config.integer("first_k_dense_replace"),
    }


ARCHITECTURES = (
    Architecture(
        "glm4",
        "GLM 4",
        ("Glm4ForCausalLM",),
        block={
            "post_self_attn_layernorm": "post_attention_norm",
            "post_attention_layernorm": "ffn_norm",
            "post_mlp_layernorm": "post_ffw_norm",
            "mlp.gate_up_proj": "ffn_up",
        },
        metadata=rope_dimensions,
        defaults={
            "head_dim": 128,
            "num_key_value_heads": 2,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1.5625e-7,
        },
    ),
    Architecture(
        "glm4moe",
        "GLM 4.5 to 4.7",
        ("Glm4MoeForCausalLM",),
        block={
            **EXPERTS,
            "post_attention_layernorm": "post_attention_norm",
            "mlp.gate.e_score_correction_bias": "exp_probs_b.bias",
            **SHARED_EXPERTS,
        },
        edits=EXPERT_EDITS,
        metadata=_experts,
        has_drafts=True,
        guards=(equals("n_group", 1, "llama.cpp chooses among all experts at once"),),
        defaults={
            "num_key_value_heads": 8,
            "partial_rotary_factor": 0.5,
            "rms_norm_eps": 1e-5,
            "moe_intermediate_size": 1408,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_routed_experts": 128,
            "routed_scaling_factor": 1.0,
            "n_group": 1,
            "first_k_dense_replace": 1,
            "norm_topk_prob": True,
        },
    ),
)
