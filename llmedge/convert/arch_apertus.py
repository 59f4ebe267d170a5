"""Apertus."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture
from llmedge.convert.guards import UNTIED
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions

ARCHITECTURES = (
    Architecture(
        "apertus",
        "Apertus",
        ("ApertusForCausalLM",),
        block={"attention_layernorm": "attn_norm", "feedforward_layernorm": "ffn_norm"},
        metadata=rope_dimensions,
        numbers={
            f"mlp.act_fn.{name}": f"xielu.{name}" for name in ("alpha_n", "alpha_p", "beta", "eps")
        },
        extra=llama3_factors,
        guards=(UNTIED,),
        activations=frozenset({"xielu"}),
        rope_kinds=frozenset({"default", "linear", "yarn", "llama3"}),
        defaults={"rms_norm_eps": 1e-5},
    ),
)
