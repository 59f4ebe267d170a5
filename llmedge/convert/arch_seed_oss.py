"""Seed-OSS."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture
from llmedge.convert.guards import is_off

ARCHITECTURES = (
    Architecture(
        "seed_oss",
        "Seed-OSS",
        ("SeedOssForCausalLM",),
        block={"post_attention_layernorm": "post_attention_norm"},
        guards=(
            is_off("attention_out_bias", "llama.cpp has no bias after attention here"),
            is_off("mlp_bias", "llama.cpp has no biases in feed-forward layers here"),
        ),
        defaults={"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-6},
    ),
)
