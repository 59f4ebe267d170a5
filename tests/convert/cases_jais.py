"""Jais."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def jais2(name: str, **settings: Any) -> Case:
    return Case(name, "jais2", "Jais2ForCausalLM", settings)


CASES = (
    jais2("jais2"),
    jais2("jais2-tied", tie_word_embeddings=True),
)

GUARDS = (
    GuardCase("attention_bias", jais2("jais2", attention_bias=False)),
    GuardCase("mlp_bias", jais2("jais2", mlp_bias=False)),
)
