"""Hunyuan."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase

ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 50.0, "factor": 1.0}
UNSTRETCHED = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}


def hunyuan(name: str, **settings: Any) -> Case:
    return Case(name, "hunyuan_v1_dense", "HunYuanDenseV1ForCausalLM", {"head_dim": 16, **settings})


MOE = {"head_dim": 16, "num_experts": 4, "moe_topk": 2}


def hunyuan_moe(name: str, **settings: Any) -> Case:
    return Case(name, "hunyuan_v1_moe", "HunYuanMoEV1ForCausalLM", {**MOE, **settings})


CASES = (
    hunyuan_moe("hunyuan-moe"),
    hunyuan_moe("hunyuan-moe-list", moe_topk=[2, 2, 2], tie_word_embeddings=True),
    hunyuan_moe("hunyuan-moe-alpha", rope_parameters=ALPHA),
    hunyuan("hunyuan"),
    hunyuan("hunyuan-alpha", head_dim=32, tie_word_embeddings=True, rope_parameters=ALPHA),
    Case(
        "hunyuan-2025",
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        {"head_dim": 16, "rope_parameters": ALPHA},
        written={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {"type": "dynamic", "alpha": 50.0, "factor": 1.0},
        },
    ),
)

GUARDS = (
    GuardCase("attention_bias", hunyuan("hunyuan", attention_bias=True)),
    GuardCase("attention_bias", hunyuan_moe("hunyuan-moe", attention_bias=True)),
)
