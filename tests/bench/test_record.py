import pytest

from llmedge.bench.record import Rate


def test_a_rate_is_described_by_its_samples():
    rate = Rate(128, (10.0, 12.0, 14.0))
    assert rate.mean == 12.0
    assert rate.standard_deviation == pytest.approx(2.0)
    assert rate.best == 14.0


def test_a_single_sample_has_no_deviation():
    assert Rate(1, (5.0,)).standard_deviation == 0.0
