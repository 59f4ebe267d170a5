"""Jais 2."""

from __future__ import annotations

from llmedge.convert.architecture import RELU2, Architecture
from llmedge.convert.guards import is_on
from llmedge.convert.hyperparameters import layer_norm, rope_dimensions

ARCHITECTURES = (
    Architecture(
        "jais2",
        "Jais 2",
        ("Jais2ForCausalLM",),
        metadata=lambda config: rope_dimensions(config) | layer_norm(config),
        guards=(
            is_on("attention_bias", "llama.cpp wants biases in attention here"),
            is_on("mlp_bias", "llama.cpp wants biases in feed-forward layers here"),
        ),
        activations=RELU2,
        defaults={"layer_norm_eps": 1e-5, "attention_bias": True, "mlp_bias": True},
    ),
)
