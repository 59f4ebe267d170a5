import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmedge.measure.quantiles import Quantiles, QuantileSketch


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


def test_few_values_are_kept_and_their_quantiles_interpolated():
    quantiles = Quantiles()
    values = np.random.default_rng(1).lognormal(-4, 2, 5_000).astype(np.float32)
    for part in np.split(values, 625):
        quantiles.add(part.astype(np.float64))
    shares = (0.0, 0.5, 0.99, 0.999, 1.0)
    # The place between two values is itself in single precision, as llama.cpp has it.
    assert quantiles.quantiles(shares) == pytest.approx(np.quantile(values, shares), rel=1e-3)
    assert quantiles.quantiles([0.0, 1.0]) == [values.min(), values.max()]


def test_quantiles_by_hand():
    quantiles = Quantiles()
    quantiles.add(np.array([4.0, 1.0, 3.0, 2.0]))
    assert quantiles.quantiles([0.5, 0.25]) == [2.5, 1.75]


def test_many_values_are_only_counted():
    values = np.random.default_rng(1).lognormal(-4, 2, 20_000)
    quantiles = Quantiles(n_exact=1_000)
    for part in np.split(values, 40):
        quantiles.add(part)
    expected = np.quantile(values, 0.99, method="nearest")
    assert quantiles.quantiles([0.99]) == [pytest.approx(expected, rel=0.011)]
    assert len(quantiles._values) == 0


def test_no_values_have_zeros_as_quantiles():
    assert Quantiles().quantiles([0.5, 0.9]) == [0.0, 0.0]
