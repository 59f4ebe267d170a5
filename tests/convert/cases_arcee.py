"""Arcee."""

from __future__ import annotations

from typing import Any

from tests.convert.cases_llama import LLAMA3_ROPE, YARN
from tests.convert.parity import Case, GuardCase


def arcee(name: str, **settings: Any) -> Case:
    return Case(name, "arcee", "ArceeForCausalLM", settings)


CASES = (
    arcee("arcee"),
    arcee("arcee-tied", tie_word_embeddings=True, head_dim=32, rope_parameters=YARN),
    arcee("arcee-llama3", rope_parameters=LLAMA3_ROPE),
)

GUARDS = (
    GuardCase("attention_bias", arcee("arcee", attention_bias=True)),
    GuardCase("mlp_bias", arcee("arcee", mlp_bias=True)),
)
