"""Command R and Aya."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase


def cohere(name: str, **settings: Any) -> Case:
    return Case(name, "cohere", "CohereForCausalLM", settings)


def cohere2(name: str, **settings: Any) -> Case:
    shape = {"num_hidden_layers": 5, "sliding_window": 8}
    return Case(name, "cohere2", "Cohere2ForCausalLM", {**shape, **settings})


CASES = (
    cohere("cohere", logit_scale=0.3),
    cohere("cohere-plus", num_hidden_layers=64, use_qk_norm=True),
    cohere2("cohere2"),
    cohere2("cohere2-pattern", layer_types=["full_attention", *4 * ["sliding_attention"]]),
    Case(
        "cohere2-2024",
        "cohere2",
        "Cohere2ForCausalLM",
        {"num_hidden_layers": 5, "sliding_window": 8},
        written={
            "layer_types": None,
            "rope_parameters": None,
            "rope_theta": 10000,
            "rotary_pct": 1.0,
            "sliding_window_pattern": 4,
            "tie_word_embeddings": None,
        },
    ),
)

GUARDS = (
    GuardCase("attention_bias", cohere("cohere", attention_bias=True)),
    GuardCase("tie_word_embeddings", cohere("cohere", tie_word_embeddings=False)),
    GuardCase("use_qk_norm", cohere("cohere", use_qk_norm=True)),
    GuardCase("attention_bias", cohere2("cohere2", attention_bias=True)),
    GuardCase("layer_types", cohere2("cohere2", layer_types=5 * ["full_attention"]), is_fatal=True),
    GuardCase("tie_word_embeddings", cohere2("cohere2", tie_word_embeddings=False)),
)
