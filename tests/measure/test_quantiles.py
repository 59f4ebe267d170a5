import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.measure.quantiles import QuantileSketch


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9, 0.999, 1.0])
def test_quantiles_are_right_to_the_relative_error(share: float):
    values = np.random.default_rng(1).lognormal(-4, 2, 20_000)
    sketch = QuantileSketch()
    for part in np.split(values, 20):
        sketch.add(part)
    expected = np.quantile(values, share, method="nearest")
    assert sketch.quantile(share) == pytest.approx(expected, rel=0.011)


@given(st.lists(st.floats(1e-8, 1e3), min_size=1, max_size=50), st.floats(0, 1))
def test_any_quantile_is_near_a_value_of_its_rank(values: list[float], share: float):
    sketch = QuantileSketch()
    sketch.add(np.array(values))
    ordered = sorted(values)
    rank = min(len(values) - 1, int(share * (len(values) - 1) + 0.5))
    assert sketch.quantile(share) == pytest.approx(ordered[rank], rel=0.011)


def test_zeros_are_zeros_and_nothing_is_zero():
    sketch = QuantileSketch()
    assert sketch.quantile(0.5) == 0.0
    sketch.add(np.array([0.0, 0.0, 5.0]))
    assert sketch.quantile(0.5) == 0.0
    assert sketch.quantile(1.0) == pytest.approx(5.0, rel=0.011)


def test_memory_does_not_grow():
    sketch = QuantileSketch()
    before = sketch._counts.nbytes
    sketch.add(np.random.default_rng(1).random(1_000_000))
    assert sketch._counts.nbytes == before < 64_000
