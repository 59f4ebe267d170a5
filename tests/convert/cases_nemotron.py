"""Nemotron."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def nemotron(name: str, **settings: Any) -> Case:
    return Case(name, "nemotron", "NemotronForCausalLM", settings)


CASES = (
    nemotron("nemotron"),
    nemotron("nemotron-bias", attention_bias=True, mlp_bias=True),
    Case(
        "nemotron-2024",
        "nemotron",
        "NemotronForCausalLM",
        written={"rope_parameters": None, "rope_theta": 10000, "partial_rotary_factor": 0.5},
    ),
)

GUARDS = (GuardCase("tie_word_embeddings", nemotron("nemotron", tie_word_embeddings=True)),)
