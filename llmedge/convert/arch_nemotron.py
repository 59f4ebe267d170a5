"""Nemotron 3, 4 and Minitron."""

from __future__ import annotations

from llmedge.convert.architecture import RELU2, Architecture
from llmedge.convert.edits import plus_one
from llmedge.convert.guards import UNTIED
from llmedge.convert.hyperparameters import layer_norm, rope_dimensions

ARCHITECTURES = (
    Architecture(
        "nemotron",
        "Nemotron, Minitron",
        ("NemotronForCausalLM",),
        edits={"*norm.weight": plus_one},
        metadata=lambda config: rope_dimensions(config) | layer_norm(config),
        guards=(UNTIED,),
        activations=RELU2,
        defaults={"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5},
    ),
)
