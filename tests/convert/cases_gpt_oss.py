"""GPT-OSS."""

from __future__ import annotations

from typing import Any

from tests.convert.cases_llama import YARN
from tests.convert.parity import Case, GuardCase

SHAPE: dict[str, Any] = {
    "head_dim": 32,
    "sliding_window": 8,
    "num_hidden_layers": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "rope_parameters": {**YARN, "rope_theta": 150000.0, "truncate": True},
}
# As the models have it: llama.cpp rounds yarn's bounds, 8.1 and 17.4 here, to 8 and 18.
UNTRUNCATED = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}
FULL, SLIDING = "full_attention", "sliding_attention"


def gpt_oss(name: str, tolerance: float = 1e-5, **settings: Any) -> Case:
    return Case(name, "gpt_oss", "GptOssForCausalLM", {**SHAPE, **settings}, tolerance)


CASES = (
    gpt_oss("gpt-oss"),
    gpt_oss("gpt-oss-pattern", layer_types=[FULL, FULL, SLIDING, FULL]),
    gpt_oss(
        "gpt-oss-untruncated",
        3e-3,
        head_dim=64,
        max_position_embeddings=131072,
        rope_parameters=UNTRUNCATED,
    ),
)

GUARDS = (
    GuardCase("tie_word_embeddings", gpt_oss("gpt-oss", tie_word_embeddings=True)),
    GuardCase("layer_types", gpt_oss("gpt-oss", layer_types=4 * [FULL]), is_fatal=True),
    GuardCase("attention_bias", gpt_oss("gpt-oss", attention_bias=False)),
    GuardCase("swiglu_alpha", gpt_oss("gpt-oss", swiglu_alpha=1.0)),
    GuardCase("swiglu_limit", gpt_oss("gpt-oss", swiglu_limit=1.0)),
)
