import pytest

from llmedge.bench.record import BenchResult, Rate
from llmedge.core.settings import Settings
from llmedge.store.records import append_record, read_records_as
from tests.bench.results import make_result


def test_a_rate_is_described_by_its_samples():
    rate = Rate(128, (10.0, 12.0, 14.0))
    assert rate.mean == 12.0
    assert rate.standard_deviation == pytest.approx(2.0)
    assert rate.best == 14.0


def test_a_single_sample_has_no_deviation_and_none_no_speed():
    assert Rate(1, (5.0,)).standard_deviation == 0.0
    assert (Rate(1, ()).mean, Rate(1, ()).best) == (0.0, 0.0)


def test_a_record_comes_back_as_it_was(settings: Settings):
    append_record(settings, "bench", make_result())
    assert read_records_as(settings, "bench", BenchResult) == [make_result()]
