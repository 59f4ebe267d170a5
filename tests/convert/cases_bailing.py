"""Ling 2 and Sarvam-30B, for which GLM 4 with experts stands in: it computes the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from tests.convert.parity import Case, GuardCase

if TYPE_CHECKING:
    from tests.convert.parity import Tensors

GLM = ("glm4_moe", "Glm4MoeForCausalLM")
MOE = {
    "use_qk_norm": True,
    "head_dim": 16,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 1,
    "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5},
}
WHOLE = MOE | {"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}}
# as Ling-mini-2.0 says it
BAILING = {
    "architectures": ["BailingMoeV2ForCausalLM"],
    "n_routed_experts": None,
    "num_experts": 8,
    "n_shared_experts": None,
    "num_shared_experts": 1,
    "score_function": "sigmoid",
    "moe_router_enable_expert_bias": True,
    "rope_parameters": None,
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5,
    "use_qkv_bias": False,
}
SARVAM = BAILING | {"architectures": ["SarvamMoEForCausalLM"], "partial_rotary_factor": None}


NAMES = {
    "embed_tokens": "word_embeddings",
    "self_attn": "attention",
    "o_proj": "dense",
    "q_norm": "query_layernorm",
    "k_norm": "key_layernorm",
    "e_score_correction_bias": "expert_bias",
}


def as_bailing(tensors: Tensors) -> Tensors:
    """Fuse queries, keys and values."""
    result = dict(tensors)
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [result.pop(name.replace("q_proj", f"{part}_proj")) for part in "qkv"]
        result[name.replace("q_proj", "query_key_value")] = torch.cat(parts)
    return result


def case(name: str, settings: dict[str, object], written: dict[str, object]) -> Case:
    return Case(name, *GLM, settings, written=written, renamed=NAMES, layout=as_bailing)


CASES = (
    case("bailing", MOE, BAILING),
    case("bailing-unnormalized", MOE | {"norm_topk_prob": False}, BAILING),
    case("bailing-older", MOE, BAILING | {"score_function": None, "partial_rotary_factor": None}),
    case("sarvam", WHOLE, SARVAM),
)

GUARDS = (
    GuardCase("head_dim", case("bailing-head-dim", MOE | {"head_dim": 32}, BAILING)),
    GuardCase(
        "score_function", case("bailing-softmax", MOE, BAILING | {"score_function": "softmax"})
    ),
    GuardCase(
        "tie_word_embeddings", case("bailing-tied", MOE | {"tie_word_embeddings": True}, BAILING)
    ),
    GuardCase("use_qk_norm", case("bailing-no-norm", MOE | {"use_qk_norm": False}, BAILING)),
    GuardCase(
        "use_qkv_bias",
        case("bailing-bias", MOE | {"attention_bias": True}, BAILING | {"use_qkv_bias": True}),
    ),
    GuardCase(
        "use_bias", case("bailing-biases", MOE, BAILING | {"use_bias": True}), is_foreign=True
    ),
)
