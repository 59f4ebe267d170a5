"""Phi 1.5 to 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import GELU_TANH, Architecture
from llmedge.convert.guards import UNTIED
from llmedge.convert.hyperparameters import (
    LONGROPE,
    layer_norm,
    longrope_factors,
    longrope_metadata,
    rope_dimensions,
    within_window,
)

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value


def _phi3(config: Config) -> dict[str, Value | None]:
    return rope_dimensions(config) | longrope_metadata(config) | within_window(config)


ARCHITECTURES = (
    Architecture(
        "phi2",
        "Phi 1.5, 2",
        ("PhiForCausalLM",),
        names={"final_layernorm": "output_norm", "norm": None},
        block={
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
        metadata=lambda config: rope_dimensions(config) | layer_norm(config),
        guards=(UNTIED,),
        activations=GELU_TANH,
        defaults={"partial_rotary_factor": 0.5, "layer_norm_eps": 1e-5},
    ),
    Architecture(
        "phi3",
        "Phi 3, 3.5, 4",
        ("Phi3ForCausalLM",),
        block={"self_attn.qkv_proj": "attn_qkv", "mlp.gate_up_proj": "ffn_up"},
        metadata=_phi3,
        extra=longrope_factors,
        rope_kinds=frozenset({"default", *LONGROPE}),
        defaults={"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
    ),
)
