"""Guards that several architectures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llmedge.convert.architecture import Guard
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from llmedge.convert.config import Config


def is_off(field: str, because: str) -> Guard:
    """Return the guard of a switch that has to be off, or not there."""
    return Guard(field, lambda config: not config.flag(field, default=False), because)


def is_on(field: str, because: str, *, default: bool | None = None) -> Guard:
    """Return the guard of a switch that has to be on; `default` is what silence means."""
    return Guard(field, lambda config: config.flag(field, default=default), because)


def equals(field: str, value: float | str, because: str) -> Guard:
    """Return the guard of a value that llama.cpp takes for granted."""
    return Guard(field, lambda config: config.get(field) == value, because)


def is_absent(field: str, because: str) -> Guard:
    """Return the guard of something that llama.cpp does not do."""
    return Guard(field, lambda config: not config.has(field), because)


def without_bias(field: str) -> Guard:
    """Return the guard of layers that must have no bias."""
    return is_off(field, "llama.cpp has no bias here")


def with_bias(field: str) -> Guard:
    """Return the guard of layers that must have one."""
    return is_on(field, "llama.cpp adds a bias in any case", default=True)


def has_window(sliding: Callable[[Config], Sequence[bool]]) -> Guard:
    """Return the guard of models that must have a layer with a window.

    Args:
        sliding: Which layers have one.
    """
    return Guard(
        "layer_types",
        lambda config: any(sliding(config)),
        "llama.cpp ends the process where no layer has a window",
    )


NO_BIAS = is_off("attention_bias", "llama.cpp has no bias after attention here")
UNTIED = is_off("tie_word_embeddings", "llama.cpp wants an output matrix of its own here")
TIED = is_on("tie_word_embeddings", "llama.cpp takes the embedding as the output matrix")
NORMALISED = is_on("norm_topk_prob", "llama.cpp lets the weights of a token's experts sum to one")
NOT_NORMALISED = is_off(
    "norm_topk_prob", "llama.cpp takes the weights of a token's experts as the router gives them"
)


def layer_types(config: Config, repeated: tuple[str, ...]) -> list[str]:
    """Return each layer's kind: as the configuration lists them, else a pattern, repeated.

    Raises:
        IntegrityError: The list is not as long as there are layers.
    """
    if not config.has("layer_types"):
        return [repeated[layer % len(repeated)] for layer in range(config.n_layers)]
    kinds = [str(each) for each in config.items("layer_types")]
    if len(kinds) != config.n_layers:
        raise IntegrityError(
            f"config.json lists {len(kinds)} layer_types for {config.n_layers} layers"
        )
    return kinds
