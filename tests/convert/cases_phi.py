"""Phi."""

from __future__ import annotations

from typing import Any

from tests.convert.parity import Case, GuardCase

# llama.cpp takes the long factors when its context, 256 here, is longer than the original's.
LONGROPE: dict[str, Any] = {
    "max_position_embeddings": 1024,
    "original_max_position_embeddings": 256,
    "partial_rotary_factor": 0.75,
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "partial_rotary_factor": 0.75,
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7],
        "long_factor": [1.0, 2.0, 3.0, 5.0, 7.0, 11.0],
    },
}
SHORT = {**LONGROPE, "max_position_embeddings": 64, "original_max_position_embeddings": 16}
HALF = {"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.5}}


def phi2(name: str, **settings: Any) -> Case:
    return Case(name, "phi", "PhiForCausalLM", {**HALF, **settings}, 1e-3)


CASES = (
    phi2("phi2"),
    Case(
        "phi2-2024",
        "phi",
        "PhiForCausalLM",
        HALF,
        1e-3,
        written={"rope_parameters": None, "num_key_value_heads": 2, "layer_norm_eps": None},
    ),
    Case("phi3", "phi3", "Phi3ForCausalLM", {"sliding_window": 64}),
    Case("phi3-tied", "phi3", "Phi3ForCausalLM", {"tie_word_embeddings": True}),
    Case("phi3-longrope", "phi3", "Phi3ForCausalLM", LONGROPE),
    Case("phi3-longrope-long", "phi3", "Phi3ForCausalLM", SHORT),
    Case(
        "phi3-2024",
        "phi3",
        "Phi3ForCausalLM",
        LONGROPE,
        written={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "su",
                "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7],
                "long_factor": [1.0, 2.0, 3.0, 5.0, 7.0, 11.0],
            },
        },
    ),
)

GUARDS = (GuardCase("tie_word_embeddings", phi2("phi2", tie_word_embeddings=True)),)
