"""Mistral 3 and Ministral 3: their text models; and Ministral."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from llmedge.convert.arch_llama import MISTRAL
from llmedge.convert.architecture import VISION, Architecture, with_rope
from llmedge.convert.edits import PERMUTE_QK
from llmedge.convert.guards import layer_types
from llmedge.convert.hyperparameters import rope_dimensions, within_window

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value


def _metadata(config: Config) -> dict[str, Value | None]:
    rope = config.rope
    values = rope_dimensions(config) | within_window(config)
    if not rope.values.get("llama_4_scaling_beta"):
        return values
    return values | {
        "attention.temperature_scale": rope.number("llama_4_scaling_beta"),
        "rope.scaling.original_context_length": int(
            rope.number("original_max_position_embeddings")
        ),
    }


def _ministral(config: Config) -> dict[str, Value | None]:
    has_window = "sliding_attention" in layer_types(config, ("sliding_attention",))
    return rope_dimensions(config) | (within_window(config) if has_window else {})


# What Ministral 3 does where its configuration has no `rope_parameters`.
_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 16.0,
    "original_max_position_embeddings": 16384,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}


def _text_model(config: Config) -> Architecture | None:
    is_ministral3 = config.get("model_type") == "ministral3"
    return (_MINISTRAL3.variant(config) or _MINISTRAL3) if is_ministral3 else None


_MISTRAL3 = Architecture(
    "mistral3",
    "Mistral 3",
    ("Mistral3ForConditionalGeneration",),
    edits=PERMUTE_QK,
    metadata=_metadata,
    defaults=MISTRAL,
    ignored=VISION,
    variant=_text_model,
)
_MINISTRAL3 = with_rope(
    replace(
        _MISTRAL3,
        family="Ministral 3",
        classes=("Ministral3ForCausalLM",),
        defaults={"head_dim": 128, "num_key_value_heads": 8, "rms_norm_eps": 1e-5},
    ),
    _ROPE,
)

ARCHITECTURES = (
    _MISTRAL3,
    _MINISTRAL3,
    Architecture(
        "llama",
        "Ministral",
        ("MinistralForCausalLM",),
        edits=PERMUTE_QK,
        metadata=_ministral,
        defaults=MISTRAL,
    ),
)
