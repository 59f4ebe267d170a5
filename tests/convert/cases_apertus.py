"""Apertus."""

from __future__ import annotations

from typing import Any

from tests.convert.cases_llama import LLAMA3_ROPE
from tests.convert.parity import Case, GuardCase


def apertus(name: str, **settings: Any) -> Case:
    return Case(name, "apertus", "ApertusForCausalLM", settings)


CASES = (
    apertus("apertus", rope_parameters=LLAMA3_ROPE),
    Case("apertus-silent", "apertus", "ApertusForCausalLM", written={"rope_parameters": None}),
    apertus("apertus-bias", attention_bias=True, rope_parameters={"rope_theta": 1e4}),
)

GUARDS = (GuardCase("tie_word_embeddings", apertus("apertus", tie_word_embeddings=True)),)
