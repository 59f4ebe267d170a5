"""Mistral 3 and Ministral 3: their text models; and Ministral."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import VISION, Architecture
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


ARCHITECTURES = (
    Architecture(
        "mistral3",
        "Mistral 3, Ministral 3",
        ("Mistral3ForConditionalGeneration", "Ministral3ForCausalLM"),
        edits=PERMUTE_QK,
        metadata=_metadata,
        defaults={"rms_norm_eps": 1e-5},
        ignored=VISION,
    ),
    Architecture(
        "llama",
        "Ministral",
        ("MinistralForCausalLM",),
        edits=PERMUTE_QK,
        metadata=_ministral,
        defaults={"rms_norm_eps": 1e-6, "sliding_window": 4096},
    ),
)
