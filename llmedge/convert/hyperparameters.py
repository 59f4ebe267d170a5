"""A model's settings as llama.cpp's metadata: what all architectures share, and rope scaling."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from llmedge.convert.rows import Rows, constant
from llmedge.core.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from llmedge.convert.config import Config, Rope
    from llmedge.gguf.writer import Value

_INTEGERS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "vocab_size": "vocab_size",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}


def common_metadata(config: Config) -> dict[str, Value | None]:
    """Return what nearly every architecture has, under keys without its prefix."""
    values: dict[str, Value | None] = {
        key: _integers(config, name) if config.has(name) else None
        for key, name in _INTEGERS.items()
    }
    if values["attention.head_count_kv"] is None:
        values["attention.head_count_kv"] = values["attention.head_count"]
    if config.has("rms_norm_eps"):
        values["attention.layer_norm_rms_epsilon"] = _epsilon(config, "rms_norm_eps")
    values["rope.freq_base"] = config.rope.theta
    return values | rope_scaling(config)


def _integers(config: Config, name: str) -> int | list[int]:
    """Return a value, or one for each layer where they differ."""
    if not isinstance(config.get(name), list):
        return config.integer(name)
    values = [int(value) for value in config.numbers(name)]
    return values[0] if len(set(values)) == 1 else values


def sliding_layers(config: Config, period: int) -> list[bool]:
    """Return which layers see a window only; all but every `period`-th where the config is silent.

    Source: `layer_types` of transformers; `sliding_window_pattern` before it.
    """
    if config.has("layer_types"):
        return [kind == "sliding_attention" for kind in config.items("layer_types")]
    period = config.integer("sliding_window_pattern", period)
    return [(layer + 1) % period != 0 for layer in range(config.n_layers)]


def layer_norm(config: Config) -> dict[str, Value | None]:
    """Return the key of models that subtract the mean."""
    return {
        "attention.layer_norm_epsilon": _epsilon(config, "layer_norm_eps"),
        "attention.layer_norm_rms_epsilon": None,
    }


def _epsilon(config: Config, name: str) -> float:
    value = config.number(name)
    if not 0 <= value < 1:  # a negative one ends llama.cpp
        raise IntegrityError(f"config.json: {name} is {value}; it has to be small and positive")
    return value


def four_times_wider(config: Config) -> dict[str, Value | None]:
    """Return the width of a feed-forward that is four times the model's where nothing is said."""
    width = config.integer("intermediate_size", 4 * config.integer("hidden_size"))
    return {"feed_forward_length": width}


def within_window(config: Config) -> dict[str, Value | None]:
    """Return a context no longer than the window, where llama.cpp has none.

    Without a window each token sees everything before it: the same as long as all of it is nearer.
    """
    longest = config.integer("max_position_embeddings")
    if config.is_null("sliding_window"):
        return {"context_length": longest}
    return {"context_length": min(longest, config.integer("sliding_window", longest))}


def rope_dimensions(config: Config) -> dict[str, Value | None]:
    """Return how much of a head rotates."""
    return {"rope.dimension_count": int(config.head_dim * config.rope.partial)}


def rope_scaling(config: Config) -> dict[str, Value | None]:
    """Return the keys of linear and yarn scaling.

    Source: transformers `modeling_rope_utils.py`; llama.cpp `ggml_rope_yarn`, whose own magnitude
    `1 + 0.1 ln(factor)` is transformers' default.
    """
    rope = config.rope
    if rope.kind == "linear":
        return {"rope.scaling.type": "linear", "rope.scaling.factor": rope.number("factor")}
    if rope.kind != "yarn":
        return {}
    factor = rope.number("factor")
    original = rope.values.get("original_max_position_embeddings")
    values: dict[str, Value | None] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": int(
            rope.number("original_max_position_embeddings")
            if original is not None
            else config.integer("max_position_embeddings")
        ),
        "rope.scaling.yarn_beta_fast": rope.number("beta_fast", 32.0),
        "rope.scaling.yarn_beta_slow": rope.number("beta_slow", 1.0),
    }
    magnitude, implied = _yarn_magnitude(rope, factor), yarn_scale(factor, 1.0)
    if magnitude != implied:
        values["rope.scaling.attn_factor"] = magnitude / implied
    return values


def _yarn_magnitude(rope: Rope, factor: float) -> float:
    if rope.values.get("attention_factor") is not None:
        return rope.number("attention_factor")
    if rope.values.get("mscale") and rope.values.get("mscale_all_dim"):
        of_all = yarn_scale(factor, rope.number("mscale_all_dim"))
        return yarn_scale(factor, rope.number("mscale")) / of_all
    return yarn_scale(factor, 1.0)


def yarn_scale(factor: float, weight: float) -> float:
    """Return how much larger queries and keys become when a context is stretched."""
    return 1 + 0.1 * weight * math.log(factor) if factor > 1 else 1.0


def llama3_factors(config: Config) -> Mapping[str, Rows]:
    """Return the divisors of Llama 3's frequencies as a tensor, which llama.cpp applies as such.

    Source: transformers `_compute_llama3_parameters`.
    """
    rope = config.rope
    if rope.kind != "llama3":
        return {}
    width = int(config.head_dim * rope.partial)
    frequencies = rope.theta ** -(np.arange(0, width, 2) / width)
    turns = rope.number("original_max_position_embeddings") * frequencies / (2 * np.pi)
    low, high = rope.number("low_freq_factor"), rope.number("high_freq_factor")
    smooth = np.clip((turns - low) / (high - low), 0, 1)
    factors = 1 / ((1 - smooth) / rope.number("factor") + smooth)
    return {"rope_freqs.weight": constant(factors.astype(np.float32))}


def longrope_factors(config: Config) -> Mapping[str, Rows]:
    """Return longrope's two sets of divisors as tensors."""
    rope = config.rope
    if rope.kind not in LONGROPE:
        return {}
    return {
        "rope_factors_long.weight": constant(rope.numbers("long_factor")),
        "rope_factors_short.weight": constant(rope.numbers("short_factor")),
    }


LONGROPE = ("longrope", "su")


def longrope_metadata(config: Config) -> dict[str, Value | None]:
    """Return longrope's original context and magnitude.

    Source: transformers `_compute_longrope_parameters`.
    """
    rope = config.rope
    if rope.kind not in LONGROPE:
        return {}
    n_max = config.integer("max_position_embeddings")
    original = _original_context(config, rope, n_max)
    factor = rope.number("factor", n_max / original)
    magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    given = rope.values.get("attention_factor")
    return {
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": rope.number("attention_factor") if given else magnitude,
    }


def _original_context(config: Config, rope: Rope, default: int) -> int:
    given = rope.values.get("original_max_position_embeddings")
    if given is not None:
        return int(rope.number("original_max_position_embeddings"))
    return config.integer("original_max_position_embeddings", default)
