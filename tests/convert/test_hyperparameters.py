from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llmedge.convert.config import Config
from llmedge.convert.hyperparameters import (
    common_metadata,
    llama3_factors,
    longrope_factors,
    longrope_metadata,
    rope_dimensions,
    rope_scaling,
)

SIZES = {
    "hidden_size": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 3,
    "max_position_embeddings": 1024,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5e5,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 1e4,
    "factor": 4.0,
    "original_max_position_embeddings": 256,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 1e4,
    "short_factor": [1.0 + n / 16 for n in range(16)],
    "long_factor": [2.0 + n / 16 for n in range(16)],
    "original_max_position_embeddings": 256,
    "factor": 4.0,
}


def config(**settings: Any) -> Config:
    return Config({**SIZES, **settings})


def transformers_rope(rope: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Return the frequencies and the magnitude that transformers computes."""
    settings = LlamaConfig(**SIZES, rope_parameters=rope)
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[rope["rope_type"]](settings, "cpu", seq_len=16)
    return frequencies.numpy(), float(magnitude)


def test_llama_3_divides_frequencies_as_transformers_does():
    factors = llama3_factors(config(rope_parameters=LLAMA3))["rope_freqs.weight"].read(0, 1)[0]
    plain = 5e5 ** -(np.arange(0, 32, 2) / 32)
    np.testing.assert_allclose(plain / factors, transformers_rope(LLAMA3)[0], rtol=1e-6)


def test_longrope_has_both_sets_of_divisors_and_transformers_magnitude():
    settings = config(rope_parameters=LONGROPE)
    factors = longrope_factors(settings)
    assert set(factors) == {"rope_factors_long.weight", "rope_factors_short.weight"}
    short = factors["rope_factors_short.weight"].read(0, 1)[0]
    plain = 1e4 ** -(np.arange(0, 32, 2) / 32)
    frequencies, magnitude = transformers_rope(LONGROPE)
    np.testing.assert_allclose(plain / short, frequencies, rtol=1e-6)
    written = longrope_metadata(settings)
    assert written["rope.scaling.attn_factor"] == pytest.approx(magnitude)
    assert written["rope.scaling.original_context_length"] == 256


@pytest.mark.parametrize(
    "more", [{}, {"attention_factor": 1.5}, {"mscale": 1.0, "mscale_all_dim": 0.5}]
)
def test_yarn_ends_in_transformers_magnitude(more: dict[str, float]):
    written = rope_scaling(config(rope_parameters=YARN | more))
    own = 1 + 0.1 * np.log(4.0)  # what llama.cpp multiplies with by itself
    found = own * float(written.get("rope.scaling.attn_factor", 1.0))  # type: ignore[arg-type]
    assert found == pytest.approx(transformers_rope(YARN | more)[1])
    assert written["rope.scaling.original_context_length"] == 256


def test_linear_scaling_is_a_factor():
    rope = {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}
    written = rope_scaling(config(rope_parameters=rope))
    assert written == {"rope.scaling.type": "linear", "rope.scaling.factor": 2.0}


def test_no_scaling_writes_no_key():
    assert rope_scaling(config()) == {}
    assert llama3_factors(config()) == {}
    assert longrope_factors(config()) == {}
    assert longrope_metadata(config()) == {}


def test_a_part_of_each_head_rotates():
    assert rope_dimensions(config(partial_rotary_factor=0.5)) == {"rope.dimension_count": 16}


def test_key_value_heads_are_all_heads_where_nothing_is_said():
    assert common_metadata(config())["attention.head_count_kv"] == 2
    assert common_metadata(config(num_key_value_heads=1))["attention.head_count_kv"] == 1
