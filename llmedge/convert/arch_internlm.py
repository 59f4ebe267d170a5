"""InternLM 3, whose class is not in transformers, and which computes as Llama does."""

from __future__ import annotations

from llmedge.convert.architecture import Architecture
from llmedge.convert.edits import PERMUTE_QK
from llmedge.convert.hyperparameters import rope_dimensions

ARCHITECTURES = (
    Architecture(
        "llama",
        "InternLM 3",
        ("InternLM3ForCausalLM",),
        edits=PERMUTE_QK,
        metadata=rope_dimensions,
        # dynamic scaling begins after the longest position, which is the context written
        rope_kinds=frozenset({"default", "linear", "yarn", "dynamic"}),
        defaults={"rms_norm_eps": 1e-5, "head_dim": 128},
    ),
)
