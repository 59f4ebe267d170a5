"""StableLM."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def stablelm(name: str, **settings: Any) -> Case:
    quarter = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.25}}
    return Case(name, "stablelm", "StableLmForCausalLM", {**quarter, **settings})


CASES = (
    stablelm("stablelm"),
    stablelm("stablelm-bias", use_qkv_bias=True),
    stablelm("stablelm-2-12b", use_parallel_residual=True, qk_layernorm=True),
    Case(
        "stablelm-2024",
        "stablelm",
        "StableLmForCausalLM",
        written={"rope_parameters": None, "rope_theta": 10000, "partial_rotary_factor": 0.25},
    ),
)

GUARDS = (GuardCase("tie_word_embeddings", stablelm("stablelm", tie_word_embeddings=True)),)
