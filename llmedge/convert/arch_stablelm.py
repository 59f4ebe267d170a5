"""StableLM 2 and 3B."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture
from llmedge.convert.guards import UNTIED
from llmedge.convert.hyperparameters import layer_norm, rope_dimensions

ARCHITECTURES = (
    Architecture(
        "stablelm",
        "StableLM",
        ("StableLmForCausalLM",),
        block={
            "self_attn.q_layernorm.norms.*": "attn_q_norm",
            "self_attn.k_layernorm.norms.*": "attn_k_norm",
        },
        metadata=lambda config: rope_dimensions(config) | layer_norm(config),
        guards=(UNTIED,),
        defaults={
            "num_key_value_heads": 32,
            "partial_rotary_factor": 0.25,
            "layer_norm_eps": 1e-5,
        },
    ),
)
