"""LG's EXAONE 4: norms after the layers, and rope only where there is a window."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.guards import has_window, layer_types
from llmedge.convert.hyperparameters import llama3_factors, rope_dimensions

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_LAYERS_WITH_WINDOW = 64  # llama.cpp knows by their number whether layers have a window


def _window(config: Config) -> int | None:
    return None if config.is_null("sliding_window") else config.integer("sliding_window", 4096)


def _sliding(config: Config) -> list[bool]:
    """Return which layers have a window; their pattern was once letters, L for local."""
    given = config.get("sliding_window_pattern", 4)
    if not isinstance(given, str):
        given = "L" * (config.integer("sliding_window_pattern", 4) - 1) + "G"
    local = {"L": "sliding_attention"}
    kinds = layer_types(config, tuple(local.get(letter, "full_attention") for letter in given))
    return [kind == "sliding_attention" for kind in kinds]


def _metadata(config: Config) -> dict[str, Value | None]:
    window = _window(config)
    if window is None:
        return rope_dimensions(config)
    return rope_dimensions(config) | {
        "attention.sliding_window": window,
        "attention.sliding_window_pattern": _sliding(config),
    }


ARCHITECTURES = (
    Architecture(
        "exaone4",
        "EXAONE 4",
        ("Exaone4ForCausalLM",),
        block={
            "post_attention_layernorm": "post_attention_norm",
            "post_feedforward_layernorm": "post_ffw_norm",
        },
        metadata=_metadata,
        extra=llama3_factors,
        guards=(
            Guard(
                "sliding_window",
                lambda config: (
                    (_window(config) is not None) == (config.n_layers == _LAYERS_WITH_WINDOW)
                ),
                "llama.cpp has windows in the model with 64 layers, and in no other",
            ),
            has_window(lambda config: [_window(config) is None, *_sliding(config)]),
        ),
        rope_kinds=frozenset({"default", "linear", "yarn", "llama3"}),
        defaults={"rms_norm_eps": 1e-5, "num_key_value_heads": 32},
    ),
)
