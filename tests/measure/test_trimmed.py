from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from llmedge.core.errors import EngineError, IntegrityError
from llmedge.measure.trimmed import N_READ, TrimMeter, decode_chunk
from llmedge.runtime.context import Context, ContextOptions
from llmedge.runtime.model import Model

if TYPE_CHECKING:
    from pathlib import Path

KEPT = (0, 2, 3)


def rows(*probabilities: tuple[float, ...]) -> np.ndarray:
    return np.log(np.array(probabilities, dtype=np.float32))


def test_the_mass_of_dropped_tokens_is_their_probability_in_the_original():
    meter = TrimMeter(4, KEPT)
    meter.weigh(N_READ, rows((0.5, 0.25, 0.125, 0.125), (0.25, 0.5, 0.125, 0.125)))
    result = meter.result()
    assert result.n_tokens == 2
    assert result.mean_dropped == pytest.approx(0.375)
    assert result.max_dropped == pytest.approx(0.5)
    assert meter.dropped_mass() == {1: pytest.approx(0.375)}


def test_positions_without_a_text_before_them_do_not_count():
    meter = TrimMeter(2, (0,))
    meter.weigh(0, rows(*[(0.5, 0.5)] * (N_READ + 3)))
    assert meter.result().n_tokens == 3
    meter.weigh(N_READ - 1, rows((0.5, 0.5), (0.5, 0.5)))
    assert meter.result().n_tokens == 4


def test_the_largest_difference_is_of_kept_tokens_only():
    meter = TrimMeter(4, KEPT)
    original = np.arange(80, dtype=np.float32).reshape(20, 4)
    trimmed = original[:, KEPT].copy()
    meter.compare(original, trimmed)
    assert meter.result().max_difference == 0.0
    trimmed[19, 1] += 0.5
    meter.compare(original, trimmed)
    assert (meter.result().max_difference, meter.result().n_compared) == (0.5, 40)


def test_logits_that_are_no_numbers_are_an_error():
    meter = TrimMeter(4, KEPT)
    broken = np.full((1, 4), np.nan, dtype=np.float32)
    with pytest.raises(IntegrityError, match="finite"):
        meter.weigh(N_READ, broken)
    with pytest.raises(IntegrityError, match="finite"):
        meter.compare(broken, broken[:, KEPT])


def test_nothing_measured_is_no_loss():
    assert TrimMeter(4, KEPT).result().mean_dropped == 0.0


def test_two_models_read_a_chunk_in_step(tiny_model: Path):
    tokens = list(range(3, 103))
    with (
        Model.load(tiny_model) as model,
        Context(model, ContextOptions(n_ctx=256, n_batch=40)) as first,
        Context(model, ContextOptions(n_ctx=256, n_batch=40)) as second,
    ):
        places = []
        for place, (one, other) in decode_chunk((first, second), (tokens, tokens)):
            places.append((place, len(one)))
            assert np.array_equal(one, other)
        assert places == [(0, 40), (40, 40), (80, 20)]
        with pytest.raises(EngineError, match="too small"):
            list(decode_chunk((first,), (tokens * 3,)))
