"""Apertus."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture, with_rope
from llmedge.convert.guards import UNTIED
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions

_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 12e6,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}

ARCHITECTURES = (
    with_rope(
        Architecture(
            "apertus",
            "Apertus",
            ("ApertusForCausalLM",),
            block={"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"},
            metadata=rope_dimensions,
            numbers={
                f"mlp.act_fn.{name}": f"xielu.{name}"
                for name in ("alpha_n", "alpha_p", "beta", "eps")
            },
            extra=llama3_factors,
            guards=(UNTIED,),
            activations=frozenset({"xielu"}),
            rope_kinds=frozenset({"default", "linear", "yarn", "llama3"}),
            defaults={"rms_norm_eps": 1e-5, "rope_theta": 12e6},
        ),
        _ROPE,
    ),
)
