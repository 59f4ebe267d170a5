"""Seed-OSS."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def seed_oss(name: str, **settings: Any) -> Case:
    return Case(name, "seed_oss", "SeedOssForCausalLM", {"head_dim": 32, **settings})


CASES = (
    seed_oss("seed-oss"),
    seed_oss("seed-oss-tied", tie_word_embeddings=True, attention_bias=False),
)

GUARDS = (
    GuardCase("attention_out_bias", seed_oss("seed-oss", attention_out_bias=True)),
    GuardCase("mlp_bias", seed_oss("seed-oss", mlp_bias=True)),
)
