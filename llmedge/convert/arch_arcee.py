"""Arcee's foundation models."""

from __future__ import annotations

from llmedge.convert.architecture import RELU2, Architecture
from llmedge.convert.edits import PERMUTE_QK
from llmedge.convert.guards import NO_BIAS, is_off
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions

ARCHITECTURES = (
    Architecture(
        "arcee",
        "Arcee",
        ("ArceeForCausalLM",),
        edits=PERMUTE_QK,
        metadata=rope_dimensions,
        extra=llama3_factors,
        guards=(
            NO_BIAS,
            is_off("mlp_bias", "llama.cpp has no biases in feed-forward layers here"),
        ),
        activations=RELU2,
        rope_kinds=frozenset({"default", "linear", "yarn", "llama3"}),
        defaults={"rms_norm_eps": 1e-5},
    ),
)
