"""Ling 2 (BailingMoe V2) and Sarvam-30B, whose classes are not in transformers.

They compute as its `Glm4Moe` does: normalized queries and keys, experts chosen by the sigmoid and
a bias, in groups, with shared experts beside them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.edits import EXPERTS
from llmedge.convert.guards import equals, is_off, is_on, without_bias
from llmedge.convert.hyperparameters import rope_dimensions

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_GATING = {"softmax": 1, "sigmoid": 2}


def _metadata(config: Config) -> dict[str, Value | None]:
    width = config.integer("moe_intermediate_size")
    return rope_dimensions(config) | {
        "leading_dense_block_count": config.integer("first_k_dense_replace"),
        "expert_shared_count": config.integer("num_shared_experts"),
        "expert_shared_feed_forward_length": config.integer(
            "moe_shared_expert_intermediate_size", width
        ),
        "expert_weights_scale": config.number("routed_scaling_factor"),
        "expert_weights_norm": config.flag("norm_topk_prob"),
        "expert_gating_func": _GATING[config.text("score_function")],
        "expert_group_count": config.integer("n_group"),
        "expert_group_used_count": config.integer("topk_group"),
    }


_BLOCK = {
    **EXPERTS,
    "attention.query_key_value": "attn_qkv",
    "attention.dense": "attn_output",
    "attention.query_layernorm": "attn_q_norm",
    "attention.key_layernorm": "attn_k_norm",
    "mlp.gate.expert_bias": "exp_probs_b.bias",
    "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
    "mlp.shared_experts.up_proj": "ffn_up_shexp",
    "mlp.shared_experts.down_proj": "ffn_down_shexp",
}
_GUARDS = (
    Guard(
        "head_dim",
        lambda config: config.head_dim * config.n_heads == config.integer("hidden_size"),
        "llama.cpp wants heads that are as wide as the model together",
    ),
    equals("score_function", "sigmoid", "only the sigmoid is shown to be right"),
    is_off("tie_word_embeddings", "llama.cpp does not tie embeddings here"),
    is_on("use_qk_norm", "llama.cpp normalizes queries and keys", default=True),
    without_bias("use_qkv_bias"),
    without_bias("use_bias"),
)
_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "score_function": "sigmoid",
    "norm_topk_prob": True,
    "n_group": 1,
    "topk_group": 1,
    "num_shared_experts": 1,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
}

ARCHITECTURES = (
    Architecture(
        "bailingmoe2",
        "Ling 2",
        ("BailingMoeV2ForCausalLM",),
        names={"word_embeddings": "token_embd"},
        block=_BLOCK,
        metadata=_metadata,
        guards=_GUARDS,
        defaults={**_DEFAULTS, "partial_rotary_factor": 0.5},
    ),
    Architecture(
        "bailingmoe2",
        "Sarvam",
        ("SarvamMoEForCausalLM",),
        names={"word_embeddings": "token_embd"},
        block=_BLOCK,
        metadata=_metadata,
        guards=_GUARDS,
        defaults=_DEFAULTS,
    ),
)
