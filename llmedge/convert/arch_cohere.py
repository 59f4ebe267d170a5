"""Command R, Command R7B and Aya."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Architecture, Guard
from llmedge.convert.guards import NO_BIAS, TIED, has_window
from llmedge.convert.hyperparameters import layer_norm, sliding_layers

if TYPE_CHECKING:
    from llmedge.convert.config import Config
    from llmedge.gguf.writer import Value

_DEFAULTS = {
    "layer_norm_eps": 1e-5,
    "logit_scale": 0.0625,
    "tie_word_embeddings": True,
}


def _cohere(config: Config) -> dict[str, Value | None]:
    return layer_norm(config) | {"logit_scale": config.number("logit_scale")}


def _cohere2(config: Config) -> dict[str, Value | None]:
    return _cohere(config) | {
        "attention.sliding_window": config.integer("sliding_window"),
        "attention.sliding_window_pattern": sliding_layers(config, 4),
        "rope.dimension_count": config.head_dim,
    }


ARCHITECTURES = (
    Architecture(
        "command-r",
        "Command R, Aya",
        ("CohereForCausalLM",),
        metadata=_cohere,
        guards=(
            NO_BIAS,
            TIED,
            Guard(
                "use_qk_norm",
                lambda config: config.flag("use_qk_norm", default=False) == (config.n_layers >= 64),
                "llama.cpp normalises queries and keys in models of 64 layers and more",
            ),
        ),
        defaults={**_DEFAULTS, "rope_theta": 5e5},
    ),
    Architecture(
        "cohere2",
        "Command R7B, Command A",
        ("Cohere2ForCausalLM",),
        metadata=_cohere2,
        guards=(NO_BIAS, TIED, has_window(lambda config: sliding_layers(config, 4))),
        defaults={**_DEFAULTS, "sliding_window": 4096},
    ),
)
